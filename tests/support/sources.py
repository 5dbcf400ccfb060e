"""Data sets for tests of the loader: numbers that nobody stored, and the bytes of shards as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from multiprocessing.connection import Connection

import numpy as np

from pineco.data_pipeline.images.decode import DecodeCounts
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.order import Extents, cut_extents
from pineco.data_pipeline.reading.reader import Members, Origin, ReadCounters, RowReader, SampleError
from pineco.data_pipeline.reading.shard_set import ShardOptions, ShardSet, open_shards

Numbers = list[tuple[int, int]]  # a batch: (epoch, sample)
Bytes = list[tuple[int, Members]]  # a batch: (sample, what its shard holds of it)
During = Callable[[list[int], bool], None]  # (rows, ahead)


class NumberReader:
    """Row i holds the number i. Remembers what it was asked for, and counts the rows that somebody still holds.

    bad: rows that are refused. during: called in every read, where a test may wait or raise.
    """

    def __init__(self, bad: Collection[int] = (), during: During = lambda rows, ahead: None) -> None:
        self.row_bytes, self.bad, self.during = 1000.0, bad, during
        self.reads: list[tuple[list[int], bool]] = []  # (rows, ahead)
        self.held = self.most_held = 0
        self._lock = threading.Lock()

    @property
    def counters(self) -> ReadCounters:
        return ReadCounters(reads=len(self.reads))

    def read(self, rows: np.ndarray, *, ahead: bool = False) -> dict[int, Members | SampleError]:
        assert (np.diff(rows) > 0).all(), rows
        with self._lock:
            self.reads.append((rows.tolist(), ahead))
        self.during(rows.tolist(), ahead)
        return {row: SampleError("is bad") if row in self.bad else {"txt": _Text(row, self)} for row in rows.tolist()}

    def origin(self, row: int) -> Origin:
        return Origin(f"shard {row // 10}", f"key {row}", 512 * row)

    def hold(self, change: int) -> None:
        with self._lock:
            self.held += change
            self.most_held = max(self.most_held, self.held)


class _Text(bytes):
    """A number in digits that counts as held as long as somebody has it."""

    _reader: NumberReader

    def __new__(cls, row: int, reader: NumberReader) -> _Text:
        text = super().__new__(cls, str(row).encode())
        text._reader = reader
        reader.hold(1)
        return text

    def __del__(self) -> None:
        self._reader.hold(-1)


class NumberSource:
    """Samples 0 .. `samples` - 1, each of one row; `groups`: samples of each group, one shard a group.

    during: called with the sample in every fill, where a test may wait or raise.
    """

    def __init__(
        self,
        samples: int,
        *,
        groups: Sequence[int] | None = None,
        reader: NumberReader | None = None,
        during: Callable[[int], object] = lambda sample: None,
    ) -> None:
        self.samples, self.groups, self.during = samples, groups or [samples], during
        self.numbers = reader or NumberReader()
        self.reader: RowReader = self.numbers
        self.decoded, self.filled = DecodeCounts(), 0

    def __len__(self) -> int:
        return self.samples

    def extents(self, lanes: int) -> Extents:
        return cut_extents([np.array([size]) for size in self.groups], lanes=lanes)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        return samples[:, None]

    def empty(self, samples: int, *, pin: bool) -> Numbers:
        return [(-1, -1)] * samples

    def fill(self, batch: Numbers, slot: int, sample: int, epoch: int, rows: Sequence[Members]) -> None:
        self.filled += 1
        self.during(sample)
        assert int(rows[0]["txt"]) == sample
        batch[slot] = (epoch, sample)


class BytesSource:
    """Every sample of a set of shards as the members that were read. required: a sample that lacks one is bad."""

    def __init__(self, shards: ShardSet, extensions: Sequence[str], required: Sequence[str] = ()) -> None:
        self.shards, self.required, self.decoded = shards, required, DecodeCounts()
        self.reader: RowReader = shards.reader(extensions)

    def __len__(self) -> int:
        return len(self.shards.index)

    def extents(self, lanes: int) -> Extents:
        return cut_extents(self.shards.index.groups_by_shard(), lanes=lanes)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        return samples[:, None]

    def empty(self, samples: int, *, pin: bool) -> Bytes:
        return [(-1, {})] * samples

    def fill(self, batch: Bytes, slot: int, sample: int, epoch: int, rows: Sequence[Members]) -> None:
        for extension in self.required:
            if extension not in rows[0]:
                raise SampleError(f"lacks a .{extension}")
        batch[slot] = (sample, {name: bytes(data) for name, data in rows[0].items()})


def bytes_loader(root: str) -> Loader[Bytes]:
    """The jpg and txt of the shards of a folder or `s3://bucket/prefix`, streamed, in batches of 16."""
    source = BytesSource(open_shards(root, ShardOptions(memory=0)), ("jpg", "txt"))
    return Loader(source, batch_size=16, lanes=8, seed=2, settings=LoaderSettings(connections=2, prefetch=0))


def read_in_child(pipe: Connection, root: str, batches: int) -> None:
    """What a process of its own reads there first; this module imports no torch, so that it starts soon."""
    found = bytes_loader(root).iterate(DataPosition())
    pipe.send([batch for _, batch in islice(found, batches)])
    found.close()
