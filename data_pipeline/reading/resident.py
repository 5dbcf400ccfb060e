"""A small data set stays in memory once it was read: its second epoch asks the store for nothing."""

from __future__ import annotations

import threading
from collections import defaultdict

import numpy as np

from pineco.data_pipeline.index.lookup import Index
from pineco.data_pipeline.reading.reader import (
    Members,
    Origin,
    ReadCounters,
    RowReader,
    SampleError,
    ShardReader,
    owned,
)


class ResidentReader:
    """Keeps every row that was read; reading ahead takes whole groups of 16 MiB, of which rows are then given out."""

    def __init__(self, reader: ShardReader, index: Index) -> None:
        self._reader, self._index = reader, index
        self._rows: dict[int, Members | SampleError] = {}
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)  # by group: read by one thread

    @property
    def row_bytes(self) -> float:
        return self._reader.row_bytes

    def read(self, rows: np.ndarray, *, ahead: bool = False) -> dict[int, Members | SampleError]:
        missing = np.array([row for row in rows.tolist() if row not in self._rows], np.int64)
        if ahead:
            for group in np.unique(self._index.group_of(missing)).tolist():
                self._take_in(group)
        elif len(missing):
            self._keep(self._reader.read(missing))
        return {row: self._rows[row] for row in rows.tolist()}

    @property
    def counters(self) -> ReadCounters:
        return self._reader.counters

    def origin(self, row: int) -> Origin:
        return self._reader.origin(row)

    def _take_in(self, group: int) -> None:
        with self._locks[group]:
            page = self._index.page(group)
            every = np.arange(page.begin, page.begin + len(page.members))
            missing = np.array([row for row in every.tolist() if row not in self._rows], np.int64)
            if len(missing):
                self._keep(self._reader.read(missing, ahead=True))

    def _keep(self, found: dict[int, Members | SampleError]) -> None:
        self._rows |= {row: owned(members) for row, members in found.items()}


def keep_if_small(reader: ShardReader, index: Index, memory: int) -> RowReader:
    """The reader itself, or one that keeps what it reads where the whole data set fits into `memory` bytes."""
    return ResidentReader(reader, index) if index.shard_bytes <= memory else reader
