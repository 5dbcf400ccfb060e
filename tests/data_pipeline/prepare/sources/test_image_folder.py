"""Class folders: every image keeps the number and the name of its class."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pineco.data_pipeline.prepare.confine import LINKED_FOLDER, OUTSIDE
from pineco.data_pipeline.prepare.samples.images import FOREIGN
from tests.support.prepared import Prepare, photo, rejections, samples, write_classes
from tests.support.shards import encode


def test_images_keep_their_class(tmp_path: Path, prepare: Prepare) -> None:
    """Labels would be those of other classes; an empty class would shift all that come after it."""
    source = write_classes(tmp_path / "src", {"ant": 2, "bee": 0, "red fox": 3})
    (source / "ant" / "deep").mkdir()
    (source / "ant" / "deep" / "x.png").write_bytes(encode(Image.new("RGB", (4, 4)), "PNG"))
    (source / "ant" / "notes.txt").write_text("no image")
    (source / "ant" / "._0.JPEG").write_text("a desktop's")
    (source / ".cache").mkdir()
    assert prepare("image-folder", source, tmp_path / "dst", "--shard-size", 4).code == 0
    found = [(m["cls"], m["txt"], m.get("jpg", b"")) for _, m in samples(tmp_path / "dst")]
    expected = [(b"0", b"ant", photo(0)), (b"0", b"ant", photo(1)), (b"0", b"ant", b"")]
    assert found == expected + [(b"2", b"red fox", photo(i)) for i in (2, 3, 4)]
    assert (tmp_path / "dst" / "classnames.txt").read_text() == "ant\nbee\nred fox"
    assert [key for key, _ in samples(tmp_path / "dst")][-2:] == ["000010000", "000010001"]


def test_links_and_foreign_formats_are_left_out(tmp_path: Path, prepare: Prepare) -> None:
    """S2: files from outside of SRC would be published; a link to a folder above would never end."""
    source = write_classes(tmp_path / "src", {"a": 1, "b": 1})
    (tmp_path / "secret.jpg").write_bytes(photo(9))
    (source / "a" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (source / "a" / "good.jpg").symlink_to(source / "b" / "0.JPEG")
    (source / "a" / "up").symlink_to(source)
    (source / "c").symlink_to(tmp_path)
    (source / "b" / "x.jpg").write_bytes(encode(Image.new("P", (4, 4)), "GIF"))
    assert prepare("image-folder", source, tmp_path / "dst").code == 0
    assert rejections(tmp_path / "dst") == {
        "a/link.jpg": OUTSIDE, "a/up": LINKED_FOLDER, "b/x.jpg": FOREIGN, "c": LINKED_FOLDER
    }  # fmt: skip
    assert [members["jpg"] for _, members in samples(tmp_path / "dst")] == [photo(0), photo(1), photo(1)]


@pytest.mark.parametrize("name", ["a\nb", "a\udcff"], ids=["line end", "no UTF-8"])
def test_a_class_that_classnames_cannot_hold_is_refused(tmp_path: Path, prepare: Prepare, name: str) -> None:
    """classnames.txt would have more lines than classes, and every label after it a wrong name."""
    done = prepare("image-folder", write_classes(tmp_path / "src", {name: 1}), tmp_path / "dst")
    assert done.code == 2
    assert "no name of a class" in done.err
    assert done.err.count("\n") == 1


def test_images_without_class_folders_are_refused(tmp_path: Path, prepare: Prepare) -> None:
    """A flat folder would become an empty data set."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "0.jpg").write_bytes(photo(0))
    done = prepare("image-folder", tmp_path / "src", tmp_path / "dst")
    assert done.code == 2
    assert "SRC/CLASS/NAME.jpg" in done.err
