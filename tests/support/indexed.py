"""Indexed data sets, and a store in memory."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from pineco.data_pipeline.stores.store import LocalStore
from tests.support.shards import Files, tar_bytes, write_shard


class MemoryStore:
    """Shards in a dict; read_bytes counts what was read."""

    def __init__(self, **shards: bytes) -> None:
        self.shards = {f"{name}.tar": data for name, data in shards.items()}
        self.read_bytes = 0

    def list_shards(self) -> list[str]:
        return sorted(name for name in self.shards if name.endswith(".tar"))

    @property
    def root_name(self) -> str:
        return "memory"

    @property
    def retries(self) -> int:
        return 0

    def find(self, name: str) -> int | None:
        return len(self.shards[name]) if name in self.shards else None

    def list_names(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.shards.items()}

    def size(self, name: str) -> int:
        return len(self.shards[name])

    def etag(self, name: str) -> str:
        return ""

    def modified(self, name: str) -> int | None:
        return None

    def write(self, name: str, data: bytes | Path) -> None:
        self.shards[name] = data if isinstance(data, bytes) else data.read_bytes()

    def remove(self, name: str) -> None:
        self.shards.pop(name, None)

    def read(self, name: str, offset: int, length: int) -> bytes:
        data = self.shards[name][offset : offset + length]
        self.read_bytes += len(data)
        return data

    def where(self, name: str) -> str:
        return f"memory/{name}"


def pairs(samples: int, seed: int = 0, extensions: Sequence[str] = ("jpg", "txt", "json"), most: int = 1500) -> Files:
    """Members of `samples` samples, of up to `most` random bytes each."""
    draw = random.Random(seed)
    return [(f"{n:06}.{e}", draw.randbytes(draw.randrange(1, most))) for n in range(samples) for e in extensions]


def write_data_set(root: Path, shards: int = 3, samples: int = 20) -> Path:
    for n in range(shards):
        write_shard(root / f"{n:05}.tar", pairs(samples, seed=n))
    return root


def whole_shard(samples: int = 50, seed: int = 0) -> bytes:
    return tar_bytes(pairs(samples, seed))


REPOSITORY = Path(__file__).parents[2]


def contents(root: Path) -> dict[str, bytes]:
    """The files of an index by name."""
    return {path.name: path.read_bytes() for path in root.iterdir() if path.suffix != ".tar"}


@pytest.fixture
def shards_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards in the order in which they are read."""
    read, names = LocalStore.read, []

    def recorded(self: LocalStore, name: str, offset: int, length: int) -> bytes:
        if name.endswith(".tar") and name not in names:
            names.append(name)
        return read(self, name, offset, length)

    monkeypatch.setattr(LocalStore, "read", recorded)
    return names


def age(root: Path) -> None:
    """Moves every file into the past, so that what is written from now on is newer whatever the clock's ticks are."""
    for path in root.iterdir():
        os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
