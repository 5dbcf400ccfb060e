"""Folders of images without captions or labels: what multi-crop training reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pineco.data_pipeline.images.crops import MultiCrop
from pineco.data_pipeline.images.multicrop import MultiCropSource
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.prepare.confine import LINKED_FOLDER, OUTSIDE
from pineco.data_pipeline.prepare.samples.images import EMPTY, FOREIGN, UNREADABLE
from pineco.data_pipeline.reading.shard_set import ShardOptions, open_shards
from tests.support.prepared import Prepare, photo, prepared, rejections, samples, tree
from tests.support.shards import encode


def write_images(root: Path, names: list[str]) -> Path:
    """photo(i) is the i-th of the names."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo(number))
    return root


def test_images_of_any_depth_are_packed_in_the_order_of_paths(tmp_path: Path, prepare: Prepare) -> None:
    """Images would be missed in deep or flat folders, or the same folder give other shards on another disk."""
    names = ["b.jpg", "a.JPEG", "deep/x/1.jpg", "deep/0.jpeg", "z.jpg"]
    source = write_images(tmp_path / "src", names)
    (source / "deep" / "p.png").write_bytes(encode(Image.new("RGB", (4, 4)), "PNG"))
    (source / "captions.txt").write_text("no image")
    (source / ".thumb.jpg").write_bytes(photo(9))
    done = prepare("images", source, tmp_path / "dst", "--shard-size", 4)
    assert (done.code, done.err) == (0, "")
    assert "images: 6 samples in 2 shards" in done.out
    order = [photo(1), photo(0), photo(3), None, photo(2), photo(4)]
    found = samples(tmp_path / "dst")
    assert [members.get("jpg") for _, members in found] == order
    assert [set(members) for _, members in found] == [{"jpg"} if data else {"png"} for data in order]
    assert [key for key, _ in found][3:5] == ["000000003", "000010000"]


def test_what_cannot_be_used_is_counted(tmp_path: Path, prepare: Prepare) -> None:
    """A damaged file would stop training later, or files from outside of SRC be published."""
    source = write_images(tmp_path / "src", ["0.jpg", "1.jpg"])
    (tmp_path / "secret.jpg").write_bytes(photo(9))
    (source / "cut.jpg").write_bytes(photo(3)[:200])
    (source / "empty.jpg").touch()
    (source / "gif.jpg").write_bytes(encode(Image.new("P", (4, 4)), "GIF"))
    (source / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (source / "up").symlink_to(tmp_path)
    done = prepare("images", source, tmp_path / "dst")
    assert done.code == 0
    bad = {"cut.jpg": UNREADABLE, "empty.jpg": EMPTY, "gif.jpg": FOREIGN, "link.jpg": OUTSIDE, "up": LINKED_FOLDER}
    assert rejections(tmp_path / "dst") == bad
    counts = {reason: entry["items"] for reason, entry in prepared(tmp_path / "dst")["rejected"].items()}
    assert counts == dict.fromkeys(bad.values(), 1)
    assert [members["jpg"] for _, members in samples(tmp_path / "dst")] == [photo(0), photo(1)]


def test_workers_and_a_second_call_change_no_byte(tmp_path: Path, prepare: Prepare) -> None:
    """A preparation that was stopped, or ran on another machine, would end with other data."""
    source = write_images(tmp_path / "src", [f"{i}/{j}.jpg" for i in range(3) for j in range(2)])
    assert prepare("images", source, tmp_path / "one", "--shard-size", 2).code == 0
    assert prepare("images", source, tmp_path / "many", "--shard-size", 2, "--workers", 3).code == 0
    before = tree(tmp_path / "one")
    assert tree(tmp_path / "many") == before
    (tmp_path / "one" / "00001.tar").unlink()
    assert prepare("images", source, tmp_path / "one", "--shard-size", 2).code == 0
    assert tree(tmp_path / "one") == before


def test_other_images_or_options_are_not_mixed_in(tmp_path: Path, prepare: Prepare) -> None:
    """Half of the shards would be of one folder, half of another."""
    source = write_images(tmp_path / "src", ["0.jpg", "1.jpg"])
    assert prepare("images", source, tmp_path / "dst").code == 0
    done = prepare("images", source, tmp_path / "dst", "--resize", 8)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "option resize" in done.err
    (source / "2.jpg").write_bytes(photo(2))
    done = prepare("images", source, tmp_path / "dst")
    assert done.code == 2
    assert "SRC holds other things" in done.err


@pytest.mark.parametrize("name", ["notes.txt", "00000.tar"])
def test_a_folder_without_images_is_refused(tmp_path: Path, prepare: Prepare, name: str) -> None:
    """It would become an empty data set."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / name).write_bytes(b"no image")
    done = prepare("images", tmp_path / "src", tmp_path / "dst")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "no image in it or below" in done.err


def test_multi_crop_reads_what_was_packed(tmp_path: Path, prepare: Prepare) -> None:
    """NeCo could not be trained on a plain folder, or would see an image twice in an epoch."""
    source = write_images(tmp_path / "src", [f"{i % 3}/{i}.jpg" for i in range(8)])
    (source / "0" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    assert prepare("images", source, tmp_path / "dst", "--shard-size", 3).code == 0
    crops = MultiCropSource(
        open_shards(str(tmp_path / "dst"), ShardOptions(memory=0)),
        settings=MultiCrop(global_size=28, local_size=14, local_crops=4),
        seed=0,
    )
    assert len(crops) == 8
    loader = Loader(crops, batch_size=4, lanes=2, seed=0, settings=LoaderSettings(workers=1, connections=1))
    running = loader.iterate(DataPosition())
    batches = [next(running)[1] for _ in range(2)]
    running.close()
    assert sorted(torch.cat([batch.samples for batch in batches]).tolist()) == list(range(8))
    assert batches[0].globals.shape == (4, 2, 3, 28, 28)
    assert batches[0].locals.shape == (4, 4, 3, 14, 14)
