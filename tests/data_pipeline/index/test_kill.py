"""Indexing that is killed: nothing half-written, nobody left behind, and the next call goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pineco.data_pipeline.index import build_index, open_index
from pineco.data_pipeline.index.manifest import MANIFEST
from pineco.data_pipeline.index.sidecar import decode_sidecar
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.indexed import REPOSITORY, age, contents, pairs, shards_read
from tests.support.shards import write_shard

__all__ = ["shards_read"]  # the fixture
SHARDS, SAMPLES = 36, 200


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed") / "data"
    for n in range(SHARDS):
        write_shard(root / f"{n:02}.tar", pairs(SAMPLES, seed=n))
    age(root)
    return root


@pytest.fixture(scope="module")
def uninterrupted(data: Path) -> dict[str, bytes]:
    build_index(data, data.parent / "uninterrupted", workers=1)
    return contents(data.parent / "uninterrupted")


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pineco", "data", "index", *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)


def sidecars(folder: Path) -> list[Path]:
    """Those that have their names, whole or not."""
    return [path for path in folder.glob("*.index") if not path.name.startswith(".")] if folder.exists() else []


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """Process ids; none of a process that has ended."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def workers_of(build: subprocess.Popen[bytes]) -> list[int]:
    return [pid for pid in children(build) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_build_goes_on(
    data: Path, uninterrupted: dict[str, bytes], tmp_path: Path, shards_read: list[str], seed: int, workers: int
) -> None:
    """F17, D5: a killed job would leave half an index, or a night's reading would be for nothing."""
    out, wanted = tmp_path / "index", random.Random(10 * seed + workers).randrange(1, SHARDS - 3)
    build = start(str(data), "--out", str(out), "--workers", str(workers))
    until(lambda: len(sidecars(out)) >= wanted or build.poll() is not None)
    family = children(build)
    build.kill()
    build.communicate()
    until(lambda: not any(map(is_alive, family)), 10)
    done = {path.name.removesuffix(".index") for path in sidecars(out)}
    assert wanted <= len(done)
    if len(done) < SHARDS:  # a kill that comes late finds everything written but the manifest, or even that
        assert not (out / MANIFEST).exists()
    for path in sidecars(out):
        decode_sidecar(path.read_bytes(), path.name)
    build_index(data, out, workers=1)
    assert set(shards_read) == {f"{n:02}.tar" for n in range(SHARDS)} - done
    left = {name: content for name, content in contents(out).items() if not name.startswith(".")}
    assert left == uninterrupted
    assert len(open_index(LocalStore(data), str(out))) == SAMPLES * SHARDS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(data: Path, tmp_path: Path, number: int) -> None:
    """A cancelled job would leave processes on the node that read terabytes, or wait for ever."""
    build = start(str(data), "--out", str(tmp_path), "--workers", "2")
    until(lambda: len(workers_of(build)) == 2)
    family = children(build)
    build.send_signal(number)
    build.communicate()
    assert len(family) == 3, "two workers and the tracker of semaphores"
    until(lambda: not any(map(is_alive, family)), 10)


def test_a_worker_that_is_killed_is_one_line(data: Path, tmp_path: Path) -> None:
    """The out-of-memory killer takes a worker: the rest would wait for it, or show a page of Python."""
    build = start(str(data), "--out", str(tmp_path), "--workers", "2")
    until(lambda: len(workers_of(build)) == 2)
    os.kill(workers_of(build)[0], signal.SIGKILL)
    error = build.communicate(timeout=60)[1].decode()
    assert build.returncode == 2
    assert error.startswith(f"pineco: {data}: a worker process died; was it out of memory? Pass fewer --workers")
    assert error.count("\n") == 1
    assert not (tmp_path / MANIFEST).exists()
