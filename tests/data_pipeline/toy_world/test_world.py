"""The folder of a toy world as a whole: its bytes, its record, who may write it when; the command line."""

import csv
import hashlib
import itertools
import json
import multiprocessing
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.toy import make_toy_world
from pineco.data_pipeline.toy_world import samples
from pineco.data_pipeline.toy_world.render import render
from pineco.data_pipeline.toy_world.scene import SHAPES
from pineco.data_pipeline.toy_world.settings import TINY, ToyWorldSettings
from tests.support.commands import command
from tests.support.toy_worlds import older_world

main = command("data toy")


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_number_of_workers_changes_no_byte(toy_world: Path, tmp_path: Path) -> None:
    """If it fails, results depend on the machine that made the data, and world.json's sha256 mean nothing."""
    worlds = [contents(make_toy_world(tmp_path / str(n), TINY, workers=n)) for n in (1, 2)]
    assert worlds[0] == worlds[1] == contents(toy_world)


def test_seed_changes_every_image(toy_world: Path, tmp_path: Path) -> None:
    """If it fails, runs with different seeds train on the same pictures."""
    other = contents(make_toy_world(tmp_path / "other", replace(TINY, seed=1), workers=2))
    same = {path for path, content in contents(toy_world).items() if other[path] == content}
    assert same.isdisjoint(path for path in contents(toy_world) if path.endswith((".jpg", ".tar")))


def test_world_json_lists_every_file_with_its_hash(toy_world: Path) -> None:
    """If it fails, a damaged or foreign file goes unnoticed."""
    record = json.loads((toy_world / "world.json").read_bytes())
    assert record["settings"] == asdict(TINY)
    present = contents(toy_world)
    del present["world.json"]
    assert {path: size for path, (size, _) in record["files"].items()} == {
        path: len(content) for path, content in present.items()
    }
    assert {path: digest for path, (_, digest) in record["files"].items()} == {
        path: hashlib.sha256(content).hexdigest() for path, content in present.items()
    }
    assert not (toy_world / ".partial").exists()


def test_second_call_reuses_and_rewrites_nothing(toy_world: Path) -> None:
    """If it fails, every run renders its data again, under the feet of another run that reads it."""
    before = {path: path.stat().st_mtime_ns for path in toy_world.rglob("*")}
    assert make_toy_world(toy_world, TINY) == toy_world
    assert {path: path.stat().st_mtime_ns for path in toy_world.rglob("*")} == before


def test_other_settings_are_refused_by_name(toy_world: Path) -> None:
    """If it fails, a run silently trains on a world that its recipe does not describe."""
    with pytest.raises(InputError, match=r"triplets=20, not 70.*delete"):
        make_toy_world(toy_world, replace(TINY, triplets=70))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "dense/classes.txt").unlink(), "dense/classes.txt is missing or was changed"),
        (lambda root: (root / "triplets/data.csv").write_text("id"), "data.csv is missing or was changed"),
        (lambda root: (root / "world.json").write_text("{}"), "not the record of a toy world"),
        (
            lambda root: (root / "world.json").write_text('{"schema": 0, "settings": {}, "files": {}}'),
            "version 0",
        ),
    ],
    ids=["missing", "changed", "no-record", "old-version"],
)
def test_damaged_world_is_refused(toy_world: Path, tmp_path: Path, damage: Any, message: str) -> None:
    """If it fails, training crashes hours later, or on other bytes than the record says."""
    root = shutil.copytree(toy_world, tmp_path / "world")
    damage(root)
    with pytest.raises(InputError, match=message):
        make_toy_world(root, TINY)


def test_the_prompts_of_triplets_are_in_their_shards(toy_world: Path) -> None:
    """If it fails, no text tower can be trained on the toy triplets, or it learns the prompts of other images."""
    with (toy_world / "triplets/data.csv").open(newline="") as file:
        wanted = {row["id"]: row["prompt"] for row in csv.DictReader(file)}
    with (toy_world / "shards/triplets/triplets.csv").open(newline="") as file:
        assert {row["id"]: row["prompt"] for row in csv.DictReader(file)} == wanted
    assert set(wanted.values()) <= set(SHAPES)


def test_a_world_from_before_the_prompts_is_still_read(toy_world: Path, tmp_path: Path) -> None:
    """If it fails, everybody who pulls this version has to delete data that every older recipe can use."""
    root = older_world(toy_world, tmp_path / "world")
    before = contents(root)
    assert make_toy_world(root, TINY) == root
    assert contents(root) == before


def test_interrupted_generation_starts_over(toy_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, Ctrl-C leaves a folder that passes for a world, or one that no later call can use."""
    root, calls = tmp_path / "world", itertools.count()

    def interrupt(*arguments: Any) -> Any:
        if next(calls) == 3 * TINY.triplets + 5:  # in the first shard of the pairs
            raise KeyboardInterrupt
        return render(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(samples, "render", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_toy_world(root, TINY, workers=1)
    assert (root / "pairs/train/00000.tar").exists()
    assert not (root / "world.json").exists()
    make_toy_world(root, TINY, workers=2)
    assert contents(root) == contents(toy_world)


@pytest.mark.parametrize("names", [["notes.txt"], ["pairs/train/00000.tar"], [".partial", "notes.txt"]])
def test_foreign_folder_is_refused_and_kept(tmp_path: Path, names: list[str]) -> None:
    """If it fails, the generator deletes data that it did not write (pairs/ alone may be somebody's own)."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match="no toy world"):
        make_toy_world(tmp_path, TINY)
    assert contents(tmp_path) == dict.fromkeys(names, b"precious")


def test_processes_that_ask_at_once_share_one_world(toy_world: Path, tmp_path: Path) -> None:
    """If it fails, the ranks of one node overwrite each other's files while they start."""
    root = tmp_path / "world"
    ranks = [multiprocessing.Process(target=make_toy_world, args=(root, TINY)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=60)
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    assert contents(root) == contents(toy_world)


def test_odd_folder_names_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, webdataset takes a part of the name for a shard number or for a command."""
    monkeypatch.chdir(tmp_path)
    small = {f.name: 10 for f in fields(ToyWorldSettings) if "_size" not in f.name}
    root = make_toy_world(Path("pipe:50%d #?"), ToyWorldSettings(**small), workers=1)
    assert (tmp_path / "pipe:50%d #?" / "pairs/train/00000.tar").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


def test_workers_must_be_positive(tmp_path: Path) -> None:
    """If it fails, workers=0 ends in a traceback of the standard library."""
    with pytest.raises(InputError, match="workers"):
        make_toy_world(tmp_path, TINY, workers=0)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, the command of the README does not work, or user errors print a traceback."""
    small = [f"--{f.name.replace('_', '-')}=10" for f in fields(ToyWorldSettings) if "_size" not in f.name]
    assert main([str(tmp_path / "w"), *small, "--workers=1"]) == 0
    printed = capsys.readouterr().out
    assert "train_pairs=10" in printed
    assert printed.count("\n") == 1  # nothing of webdataset's own
    assert main([str(tmp_path / "w"), *small, "--seed=11"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pineco: ")
    assert error.count("\n") == 1
