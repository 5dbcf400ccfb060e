"""Shards read once and in order: the same samples as by index, in bounded memory, ahead of their use."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import read_samples
from pineco.data_pipeline.reading import shard_stream
from pineco.data_pipeline.reading.shard_stream import stream_samples
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.shards import tar_bytes

NAMES = ("0.tar", "1.tar", "2.tar")


class Watched(LocalStore):
    """Remembers every read; `during` is called in it with the shard's name."""

    def __init__(self, root: Path, during: Callable[[str], None] = lambda name: None) -> None:
        super().__init__(root)
        self.reads: list[tuple[str, int, int]] = []
        self._during = during

    def read(self, name: str, offset: int, length: int) -> bytes:
        self.reads.append((name, offset, length))
        self._during(name)
        return super().read(name, offset, length)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of 40 samples: members of 0 to 3,000 bytes, long names, and files that are no samples."""
    draw = random.Random(1)
    for name in NAMES:
        members = [("README", b"no sample"), ("._000.jpg", b"no sample")]
        for number in range(40):
            key = f"{'deep/' * 30 if number == 7 else ''}s{number:04}"
            members += [(f"{key}.{e}", draw.randbytes(draw.randrange(3000))) for e in ("JPG", "cls")]
        (tmp_path / name).write_bytes(tar_bytes(members))
    return tmp_path


def narrow(monkeypatch: pytest.MonkeyPatch, window: int, ahead: int) -> None:
    monkeypatch.setattr(shard_stream, "WINDOW", window)
    monkeypatch.setattr(shard_stream, "AHEAD", ahead)


@pytest.mark.parametrize("window", [1, 512, 700, 4096, 1 << 20])
def test_samples_are_those_of_the_index(folder: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """A member that lies across two windows would lose bytes, or the samples after it be lost."""
    names = NAMES[:1] if window == 1 else NAMES
    if window == 1:
        (folder / "0.tar").write_bytes(tar_bytes([("a.txt", b"one"), ("b.txt", b"")]))
    narrow(monkeypatch, window, 4 * window)
    store = Watched(folder)
    found = list(stream_samples(store, names))
    assert found == [(name, key, members) for name in names for key, members in read_samples(folder / name)]
    assert sum(length for _, _, length in store.reads) == sum((folder / name).stat().st_size for name in names)


def test_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a gigabyte would fill the memory when the model is slower than the network."""
    narrow(monkeypatch, 1000, 5000)
    store = Watched(folder)
    samples = stream_samples(store, NAMES)
    next(samples)
    samples.close()  # waits for what is under way
    taken = 4 * 3000 + 4 * 512 + 4 * 1024  # the first sample and the header that ends it, at most
    assert sum(length for _, _, length in store.reads) <= taken + 5000


def test_the_next_shard_is_read_while_one_is_used(folder: Path) -> None:
    """The model would wait for every shard's first bytes."""
    begun = threading.Event()
    store = Watched(folder, lambda name: begun.set() if name == "2.tar" else None)
    samples = stream_samples(store, NAMES)
    next(samples)
    assert begun.wait(20), "nobody read the third shard while the first one was used"
    samples.close()


def test_leaving_early_ends_the_threads(folder: Path) -> None:
    """An evaluation that fails would leave threads that go on reading."""
    before = threading.active_count()
    samples = stream_samples(Watched(folder), NAMES)
    list(islice(samples, 50))
    samples.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:30_000], r"1\.tar: at byte \d+: "),
        (lambda data: b"", r"1\.tar: at byte 0: 0 bytes are no tar"),
        (lambda data: data[:5000] + b"\xff" * 1000 + data[6000:], r"1\.tar: at byte \d+: bad header checksum"),
        (lambda data: tar_bytes([("README", b"")]), r"1\.tar: an empty shard"),
        (lambda data: tar_bytes([("a.txt", b"1"), ("a.TXT", b"2")]), r"1\.tar: at byte 1536: two members are called"),
    ],
)
def test_a_damaged_shard_is_named(folder: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    """A shard that was copied in part would be measured in part."""
    path = folder / "1.tar"
    path.write_bytes(damage(path.read_bytes()))
    samples = stream_samples(LocalStore(folder), NAMES)
    assert len(list(islice(samples, 40))) == 40
    with pytest.raises(InputError, match=message):
        list(samples)


def test_a_shard_that_shrinks_is_named(folder: Path) -> None:
    """The rest of a shard that is being overwritten would be taken for its end."""

    def cut(name: str) -> None:
        (folder / "1.tar").write_bytes(b"")

    with pytest.raises(InputError, match=r"1\.tar: at byte 0: 0 of \d+ bytes came: it was cut while it was read"):
        list(stream_samples(Watched(folder, cut), ("1.tar",)))
