"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pineco.data_pipeline.files import replacing


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_takes_the_place_of_another(tmp_path: Path, sync: bool) -> None:
    """A reader would see half of it, or a draft stay behind."""
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path, sync=sync) as draft:
        draft.write_text("new")
        assert draft.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    """A crash would take the old file along, or fill the disk with drafts."""
    path = tmp_path / "a"
    path.write_text("old")

    def begin() -> None:
        with replacing(path) as draft:
            target = draft / "b" if folder else draft
            target.parent.mkdir(exist_ok=True)
            target.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_with_all_that_is_in_it(tmp_path: Path) -> None:
    """A folder of another process would be merged with this one, or be lost."""
    path = tmp_path / "a"
    with replacing(path, sync=True) as draft:
        (draft / "deep").mkdir(parents=True)
        (draft / "deep" / "file").write_text("x")
    assert (path / "deep" / "file").read_text() == "x"
    with pytest.raises(OSError, match="not empty"), replacing(path) as draft:
        draft.mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert (path / "deep" / "file").read_text() == "x"


def test_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut the name would stand for an empty file."""
    flushed: list[str] = []

    def note(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append(place.name if place == tmp_path else f"{place.name.split('.')[1]} {(tmp_path / 'a').exists()}")

    monkeypatch.setattr(os, "fsync", note)
    with replacing(tmp_path / "a", sync=True) as draft:
        draft.write_text("new")
    assert flushed == ["a False", tmp_path.name]


def test_two_writers_do_not_share_a_draft(tmp_path: Path) -> None:
    """The bytes of two ranks, or of two nodes with the same process id, would mix."""
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"
