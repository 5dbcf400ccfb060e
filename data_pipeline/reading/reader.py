"""Members of samples, by as few ranges as there are, every byte checked against the index."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from isal.isal_zlib import crc32

from pineco.data_pipeline.index.lookup import Index, Page
from pineco.data_pipeline.index.samples import split_name
from pineco.data_pipeline.index.sidecar import ShardEntry
from pineco.data_pipeline.index.table import MEMBER
from pineco.data_pipeline.stores.cache import CacheCounters, DiskCache, key_of
from pineco.data_pipeline.stores.store import Store

GAP = 256 << 10  # bytes between two members that are read along rather than asked for apart
_HEADER, _NAME = 512, 100  # bytes of a tar header, and of the name in it

PIECE = np.dtype([*MEMBER.descr, ("sample", "<i8"), ("column", "<i8")])
Data = bytes | memoryview  # a view keeps the whole range that it is a part of: see `owned`
Members = dict[str, Data]  # by extension


class SampleError(ValueError):
    """A sample that cannot be used: its bytes are not those that were indexed, or hold no image or text.

    part: which of the sample's rows is at fault.
    """

    def __init__(self, reason: str, part: int = 0) -> None:
        super().__init__(reason)
        self.part = part


def owned(members: Members | SampleError) -> Members | SampleError:
    """Copies in the place of views: for who keeps a sample longer than the others of its range."""
    if isinstance(members, SampleError):
        return members
    return {name: bytes(data) if isinstance(data, memoryview) else data for name, data in members.items()}


@dataclass(frozen=True)
class Origin:
    """Where a sample lies, for people."""

    shard: str
    key: str
    offset: int  # byte of the shard at which its data begins


class RowReader(Protocol):
    """Rows by number: samples of shards, or files of a folder."""

    @property
    def row_bytes(self) -> float:
        """Of a row, on average."""
        ...

    def read(self, rows: np.ndarray, *, ahead: bool = False) -> dict[int, Members | SampleError]:
        """The members of each of these rows, or what is wrong with it.

        rows: (n,) int64, increasing. ahead: nobody waits for them yet.
        """
        ...

    def origin(self, row: int) -> Origin: ...

    @property
    def counters(self) -> ReadCounters: ...


@dataclass(frozen=True)
class ReadCounters:
    """What a reader has done since it was opened."""

    bytes: int = 0  # that came from the store
    reads: int = 0  # ranges asked of the store
    retries: int = 0  # of the store's requests
    repaired: int = 0  # members whose bytes were wrong at first and right when read again
    cache_hits: int = 0  # ranges that came from the cache
    cache_misses: int = 0


class ShardReader:
    """Samples of indexed shards. Safe for several threads.

    extensions: the members that are read, of those that a shard has.
    """

    def __init__(self, store: Store, index: Index, extensions: Sequence[str], cache: DiskCache | None = None) -> None:
        self.store, self.index, self.cache = store, index, cache
        self._extensions = extensions
        self._counters, self._lock = ReadCounters(), threading.Lock()
        self._taking_in: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)  # by group

    @property
    def counters(self) -> ReadCounters:
        cache = CacheCounters() if self.cache is None else self.cache.counters
        counted = replace(self._counters, retries=self.store.retries)
        return replace(counted, cache_hits=cache.hits, cache_misses=cache.misses)

    @property
    def row_bytes(self) -> float:
        return self.index.shard_bytes / max(1, len(self.index))

    def read(self, rows: np.ndarray, *, ahead: bool = False) -> dict[int, Members | SampleError]:
        found: dict[int, Members | SampleError] = {}
        for page, samples in self.index.pages(rows):
            found |= {sample: {} for sample in samples.tolist()}
            for span in spans(self._pieces(page, samples)):
                self._read_span(page, span, found, ahead=ahead)
        return found

    def origin(self, row: int) -> Origin:
        page = self.index.page(int(self.index.group_of(np.array([row]))[0]))
        shard = self.index.shard(page.shard)
        offsets = page.members[row - page.begin]["offset"]
        first = int(offsets[offsets > 0].min())
        name = self.store.read(shard.name, first - _HEADER, _NAME).split(b"\0", 1)[0].decode("utf-8", "replace")
        return Origin(self.store.where(shard.name), split_name(name)[0] or "(name lost)", first)

    def _pieces(self, page: Page, samples: np.ndarray) -> np.ndarray:
        """(n,) of PIECE: the members that are wanted of these samples, in the order of their offsets."""
        names = self.index.shard(page.shard).extensions
        columns = np.array([c for c, name in enumerate(names) if name in self._extensions], np.int64)
        members = page.members[np.ix_(samples - page.begin, columns)].ravel()
        pieces = np.empty(len(members), PIECE)
        for field in MEMBER.names or ():
            pieces[field] = members[field]
        pieces["sample"], pieces["column"] = np.repeat(samples, len(columns)), np.tile(columns, len(samples))
        there = pieces[members["offset"] > 0]
        return there[np.argsort(there["offset"], kind="stable")]

    def _read_span(self, page: Page, span: np.ndarray, found: dict[int, Any], *, ahead: bool) -> None:
        shard, begin, end = self.index.shard(page.shard), int(span["offset"][0]), int(_ends(span).max())
        # Views: copies would be a third of the time of reading.
        data = memoryview(self._cached(shard, page, begin, end, ahead=ahead) or self._ask(shard, begin, end))
        for offset, size, crc, sample, column in span.tolist():
            members, name = found[sample], shard.extensions[column]
            if isinstance(members, SampleError):
                continue
            member: Data = data[offset - begin : offset - begin + size]
            if crc32(member) != crc or len(member) != size:  # as `matches`, whose call would take a fifth of this loop
                piece = Piece(offset, size, crc)
                member = self._read_again(shard, page, piece)
                if not piece.matches(member):
                    found[sample] = SampleError(f".{name}: its bytes are not those that were indexed (crc32)")
                    continue
            members[name] = member

    def _read_again(self, shard: ShardEntry, page: Page, piece: Piece) -> Data:
        """The member from the store itself: caches, networks and disks flip bits, too."""
        member = self._ask(shard, piece.offset, piece.offset + piece.size)
        if piece.matches(member):
            self._count(repaired=1)
            if self.cache is not None:
                self.cache.drop(self._key(shard, page)[0])
        return member

    def _cached(self, shard: ShardEntry, page: Page, begin: int, end: int, *, ahead: bool) -> bytes | None:
        """A range out of the cache, which takes in the whole group where that is read ahead, by one thread."""
        if self.cache is None:
            return None
        key, group_begin, group_end = self._key(shard, page)
        with self._taking_in[page.group] if ahead else nullcontext():
            part = self.cache.read(key, begin - group_begin, end - begin)
            if part is None and ahead:
                group = self._ask(shard, group_begin, group_end)
                self.cache.put(key, group)
                part = group[begin - group_begin : end - group_begin]
        return part

    def _key(self, shard: ShardEntry, page: Page) -> tuple[str, int, int]:
        """(key in the cache, first byte, end byte) of a group."""
        offsets, ends = page.members["offset"], page.members["offset"] + page.members["size"]
        begin, end = int(offsets[offsets > 0].min()), int(ends.max())
        return key_of(shard.sidecar_sha256, begin, end), begin, end

    def _ask(self, shard: ShardEntry, begin: int, end: int) -> bytes:
        data = self.store.read(shard.name, begin, end - begin)
        self._count(reads=1, bytes=len(data))
        return data

    def _count(self, **more: int) -> None:
        with self._lock:
            held = self._counters
            self._counters = replace(held, **{name: getattr(held, name) + n for name, n in more.items()})


class Piece(NamedTuple):
    """Where the bytes of one member lie, and their checksum."""

    offset: int
    size: int
    crc32: int

    def matches(self, data: Data) -> bool:
        """Whether these are the bytes that were indexed; fewer come where a shard was cut."""
        return len(data) == self.size and crc32(data) == self.crc32


def spans(pieces: np.ndarray, gap: int = GAP) -> Iterator[np.ndarray]:
    """(n,) of PIECE, in the order of offsets, cut where more than `gap` bytes that nobody wants lie between two."""
    apart = pieces["offset"][1:] > np.maximum.accumulate(_ends(pieces))[:-1] + np.uint64(gap)
    for first, last in pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), len(pieces)]):
        if first < last:
            yield pieces[first:last]


def _ends(pieces: np.ndarray) -> np.ndarray:
    return pieces["offset"] + pieces["size"]
