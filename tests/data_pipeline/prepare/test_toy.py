"""The toy world at a place of its own: every file the same, what is read in shards indexed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pineco.data_pipeline.index import open_index
from pineco.data_pipeline.prepare import toy
from pineco.data_pipeline.stores.store import LocalStore, open_store
from pineco.data_pipeline.toy_world.settings import TINY
from pineco.data_pipeline.triplets.source import open_triplets
from tests.support.prepared import URL, Prepare, tree


def check(found: dict[str, bytes], world: dict[str, bytes]) -> None:
    assert {name: data for name, data in found.items() if name in world} == world
    indexed = {str(Path(name).parent) for name in found if name.endswith("manifest.json")}
    assert indexed == {"pairs/train", "pairs/val", "dense/train", "dense/test", "shards/triplets"}


def test_every_file_is_copied_and_shards_are_indexed(tmp_path: Path, toy_world: Path, prepare: Prepare) -> None:
    """Training from the copy would be another training."""
    done = prepare("toy", toy_world, tmp_path / "dst")
    assert done.code == 0
    check(tree(tmp_path / "dst"), tree(toy_world))
    assert f"{len(tree(toy_world)) - 1} files" in done.out
    assert len(open_index(open_store(tmp_path / "dst" / "pairs" / "train"))) == TINY.train_pairs
    assert len(open_index(open_store(tmp_path / "dst" / "dense" / "test"))) == TINY.dense_test


def test_a_world_goes_to_a_bucket(bucket: Path, toy_world: Path, prepare: Prepare) -> None:
    """The default run could not be tried against S3."""
    assert prepare("toy", toy_world, URL).code == 0
    check(tree(bucket / "data" / "set"), tree(toy_world))
    assert len(open_index(open_store(f"{URL}/pairs/train"))) == TINY.train_pairs
    rows, reader = open_triplets(f"{URL}/shards/triplets")
    assert len(rows.images) == TINY.triplets
    assert all(reader.read(rows.images[0]).values())


def test_a_missing_world_is_made(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user would have to know another command first."""
    monkeypatch.setattr(toy, "ToyWorldSettings", lambda **found: TINY)
    assert prepare("toy", tmp_path / "world", tmp_path / "dst").code == 0
    assert json.loads((tmp_path / "dst" / "world.json").read_bytes())["settings"]["triplets"] == TINY.triplets


def test_it_goes_on_and_keeps_to_one_world(
    tmp_path: Path, toy_world: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the files would be of another world; or a copy that was stopped have to start over."""
    prepare("toy", toy_world, tmp_path / "dst")
    expected = tree(tmp_path / "dst")
    for name in ("world.json", "pairs/train/00000.tar", "prepare.json"):
        (tmp_path / "dst" / name).unlink()
    (tmp_path / "dst" / "prepare.json").write_bytes(expected["prepare.json"].replace(b"true", b"false"))
    written: list[str] = []
    write = LocalStore.write

    def listed(store: LocalStore, name: str, data: bytes | Path) -> None:
        written.append(name)
        write(store, name, data)

    monkeypatch.setattr(LocalStore, "write", listed)
    assert prepare("toy", toy_world, tmp_path / "dst").code == 0
    assert tree(tmp_path / "dst") == expected
    assert not [name for name in written if name.endswith(".jpg")]
    (tmp_path / "dst" / "prepare.json").write_bytes(expected["prepare.json"].replace(b'"items": ', b'"items": 1'))
    done = prepare("toy", toy_world, tmp_path / "dst")
    assert (done.code, "SRC holds other things" in done.err) == (2, True)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "pairs/link"])
def test_a_hostile_world_publishes_nothing(tmp_path: Path, toy_world: Path, prepare: Prepare, path: str) -> None:
    """S1: a downloaded world.json would name files of this machine."""
    source = tmp_path / "world"
    source.mkdir()
    (tmp_path / "secret").write_text("secret")
    record = json.loads((toy_world / "world.json").read_bytes())
    record["files"] = {path: [6, ""]}
    (source / "pairs").mkdir()
    (source / "pairs" / "link").symlink_to(tmp_path / "secret")
    if path == "/etc/passwd":
        record["files"][path][0] = Path(path).stat().st_size
    (source / "world.json").write_text(json.dumps(record))
    done = prepare("toy", source, tmp_path / "dst")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert not (tmp_path / "dst" / "secret").exists()
    assert not list(tmp_path.glob("dst/**/link"))


def test_another_folder_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """A world would be rendered into somebody's folder."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "thesis.tex").write_text("x")
    done = prepare("toy", tmp_path / "src", tmp_path / "dst")
    assert (done.code, "thesis.tex" in done.err) == (2, True)
