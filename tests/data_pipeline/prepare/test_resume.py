"""Killed at any moment and called again, a preparation ends with the bytes of one that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pineco.data_pipeline.prepare import workers
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.prepare_calls import Source, call, survives
from tests.support.prepared import Prepare, photo, samples, tree, write_classes, write_pairs, write_table
from tests.support.triplet_sets import nights_row, write_nights


@pytest.fixture(params=["yfcc15m", "csv", "image-folder", "nights"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """Several parts, some of their items rejected."""
    src = tmp_path / "src"
    if request.param == "yfcc15m":
        return "yfcc15m", write_pairs(src, k4={"txt": b""}, k5={"jpg": b""}), ()
    if request.param == "csv":
        rows = [f"images/{i}.jpg\tphoto {i}" for i in (0, 9, 1, 2, 3)]
        return "csv", write_table(src, rows), ("--shard-size", "2")
    if request.param == "image-folder":
        return "image-folder", write_classes(src, {"a": 2, "b": 3}), ("--shard-size", "2")
    rows = [nights_row(0, 0, 1, 2), nights_row(1, 3, 4, 5), nights_row(2, 0, 4, 50)]
    return "nights", write_nights(src, rows), ("--shard-size", "3")


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, source: Source) -> None:
    """The same data prepared on two machines would not be the same data."""
    for count in (1, 3):
        assert call(source, tmp_path / f"dst{count}", count) == 0
    assert tree(tmp_path / "dst1") == tree(tmp_path / "dst3")


def test_neither_time_nor_place_changes_a_byte(tmp_path: Path, prepare: Prepare) -> None:
    """Checksums would differ from one preparation to the next."""
    first, second = write_pairs(tmp_path / "a" / "src"), write_pairs(tmp_path / "b" / "elsewhere")
    for path in second.iterdir():
        os.utime(path, (1, 1))
    prepare("yfcc15m", first, tmp_path / "x")
    prepare("yfcc15m", second, tmp_path / "y")
    assert tree(tmp_path / "x") == tree(tmp_path / "y")


@pytest.mark.parametrize("source", ["yfcc15m", "nights"], indirect=True)
def test_killed_at_every_write_and_called_again(tmp_path: Path, source: Source) -> None:
    """Half a shard would be taken for a whole one, a shard be lost, or drafts fill the disk."""
    assert call(source, tmp_path / "whole") == 0
    expected = tree(tmp_path / "whole")
    assert survives(source, lambda destination: None, tmp_path, expected) >= len(expected) - 1


def test_killed_while_a_complete_one_is_mended(tmp_path: Path) -> None:
    """prepare.json, rejected.jsonl and the index would say for ever what was there before."""
    source: Source = "yfcc15m", write_pairs(tmp_path / "src"), ()
    data = (source[1] / "00001.tar").read_bytes()
    (source[1] / "00001.tar").write_bytes(data[:1536])
    assert call(source, tmp_path / "old") == 0
    (source[1] / "00001.tar").write_bytes(data)
    assert call(source, tmp_path / "whole") == 0
    expected = tree(tmp_path / "whole")

    def copy(destination: Path) -> None:
        shutil.copytree(tmp_path / "old", destination)

    assert survives(source, copy, tmp_path, expected) >= 6


def test_what_was_made_is_not_made_again(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption after ten hours would cost ten hours."""
    assert call(source, tmp_path / "dst") == 0
    expected, made = tree(tmp_path / "dst"), []
    (tmp_path / "dst" / "prepare" / "00000.json").unlink()

    def count(path: Path, number: int, outcomes: object, write: Any = workers.write_shard) -> Any:
        made.append(number)
        return write(path, number, outcomes)

    monkeypatch.setattr(workers, "write_shard", count)
    assert call(source, tmp_path / "dst") == 0
    assert made == [0]
    assert tree(tmp_path / "dst") == expected


def test_a_complete_one_is_left_alone(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files would be replaced under a training that reads them."""
    assert call(source, tmp_path / "dst") == 0
    written: list[str] = []
    monkeypatch.setattr(LocalStore, "write", lambda store, name, data: written.append(name))
    assert call(source, tmp_path / "dst") == 0
    assert written == []


@pytest.mark.parametrize(
    "name", ["00000.tar", "manifest.json", "rejected.jsonl", "prepare/00001.json", "00000.tar.index"]
)
def test_what_was_lost_is_made_again(tmp_path: Path, prepare: Prepare, name: str) -> None:
    """A complete preparation of which a file was deleted could not be mended by the same command."""
    source = write_pairs(tmp_path / "src", k4={"txt": b""})
    prepare("yfcc15m", source, tmp_path / "dst")
    expected = tree(tmp_path / "dst")
    (tmp_path / "dst" / name).unlink()
    assert prepare("yfcc15m", source, tmp_path / "dst").code == 0
    assert tree(tmp_path / "dst") == expected


def test_a_shard_of_another_size_is_made_again(tmp_path: Path, prepare: Prepare) -> None:
    """A shard that something cut would be taken for complete, because its record says so."""
    source = write_pairs(tmp_path / "src")
    prepare("yfcc15m", source, tmp_path / "dst")
    expected = tree(tmp_path / "dst")
    os.truncate(tmp_path / "dst" / "00001.tar", 1024)
    assert prepare("yfcc15m", source, tmp_path / "dst").code == 0
    assert tree(tmp_path / "dst") == expected


def test_a_replaced_source_shard_is_made_again(tmp_path: Path, prepare: Prepare) -> None:
    """After mending one damaged download of 1,500, all of them would be prepared again, or none."""
    source, whole = write_pairs(tmp_path / "src"), write_pairs(tmp_path / "whole")
    data = (source / "00001.tar").read_bytes()
    (source / "00001.tar").write_bytes(data[:1536])
    prepare("yfcc15m", source, tmp_path / "dst")
    assert len(samples(tmp_path / "dst")) == 7
    (source / "00001.tar").write_bytes(data)
    prepare("yfcc15m", source, tmp_path / "dst")
    prepare("yfcc15m", whole, tmp_path / "new")
    assert samples(tmp_path / "dst") == samples(tmp_path / "new")
    (source / "00001.tar").write_bytes(data[:1536])  # and back: its shard goes
    prepare("yfcc15m", source, tmp_path / "dst")
    assert [path.name for path in sorted((tmp_path / "dst").glob("*.tar"))] == ["00000.tar", "00002.tar"]


def write_large(source: Path) -> Path:
    """40 folders, each of them some tenths of a second of work."""
    image = photo(0, 2000, 2000)
    for shard in range(40):
        (source / f"{shard:05}").mkdir(parents=True)
        for number in range(4):
            (source / f"{shard:05}" / f"{number}.jpg").write_bytes(image)
            (source / f"{shard:05}" / f"{number}.txt").write_text("large, so that it takes a while")
    return source


def start(source: Path, destination: Path) -> subprocess.Popen[str]:
    """Two workers, in a session of their own; returns when the first part was made."""
    command = [sys.executable, "-m", "pineco", "data", "prepare", "yfcc15m", str(source), str(destination)]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=-1,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    deadline = time.monotonic() + 60
    while not list(destination.glob("prepare/00*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """After kill -9, workers would go on for hours, and write into what the next call makes."""
    source, destination = write_large(tmp_path / "src"), tmp_path / "dst"
    process = start(source, destination)
    children = children_of(process.pid)
    process.kill()
    process.communicate()
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    assert len(list(destination.glob("*.tar"))) < 40, "it was done before it was killed: this shows nothing"


def children_of(parent: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def is_running(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    """Every worker would print a traceback, and the user not learn that the same command goes on."""
    process = start(write_large(tmp_path / "src"), tmp_path / "dst")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "pineco: interrupted; the same command continues where it stopped\n")


def die(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel kills a worker for its memory, and the preparation would hang, or end with a traceback."""
    monkeypatch.setattr(workers, "write_shard", die)
    done = prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst", "--workers", 2)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "fewer --workers" in done.err


def test_two_at_once_are_refused(tmp_path: Path, prepare: Prepare) -> None:
    """One would clear away what the other is just writing."""
    source = write_pairs(tmp_path / "src")
    prepare("yfcc15m", source, tmp_path / "dst")
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True); "
        "sys.stdin.read()"
    )
    lock = str(tmp_path / "dst" / "prepare" / "lock")
    with subprocess.Popen([sys.executable, "-c", code, lock], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "locked\n"
        done = prepare("yfcc15m", source, tmp_path / "dst")
        assert other.stdin
        other.stdin.close()
    assert (done.code, "another process" in done.err) == (2, True)
