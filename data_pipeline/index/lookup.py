"""From a sample number to its members: the manifest in memory, pages of rows read when they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from isal.isal_zlib import crc32

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.manifest import MANIFEST, Manifest, check_shards, find_manifest, index_command
from pineco.data_pipeline.index.scan import scan_shard
from pineco.data_pipeline.index.sidecar import ShardEntry, decode_sidecar, encode_sidecar, sidecar_name
from pineco.data_pipeline.index.table import MEMBER, rows_fit
from pineco.data_pipeline.stores.store import Store, open_store

SCAN_LIMIT = 4 << 30  # bytes of shards that are indexed on the fly; 4 GiB take some seconds from a disk
PAGES_BYTES = 64 << 20  # of pages kept in memory; a page describes 16 MiB of a shard in some 10 KB


@dataclass(frozen=True)
class Page:
    """The rows of one group of a shard."""

    shard: int
    group: int  # over all shards
    begin: int  # global number of its first sample
    members: np.ndarray  # (n, C) of MEMBER


class Index:
    """Where the samples of a data set lie. Samples are numbered over the shards in the order of their names.

    Holds a few integers a group of 16 MiB; rows come in pages, checked against the manifest. Safe for several threads.
    """

    def __init__(self, manifest: Manifest, sidecars: Mapping[str, bytes] | Store) -> None:
        """sidecars: by name of the shard, or the store that holds them."""
        self.manifest, self._sidecars = manifest, sidecars
        self._shards = manifest.shards
        sizes = np.array([g.samples for s in self._shards for g in s.groups], np.int64)
        groups = np.array([len(s.groups) for s in self._shards], np.int64)
        self.group_sizes = sizes  # (G,) samples of each group
        self._group_first = np.concatenate(([0], np.cumsum(sizes)))  # (G + 1,)
        self._group_shard = np.repeat(np.arange(len(groups)), groups)  # (G,)
        self._shard_group = np.concatenate(([0], np.cumsum(groups)))  # (S + 1,)
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._held, self._lock = 0, threading.Lock()

    def __len__(self) -> int:
        return int(self._group_first[-1])

    @property
    def shard_bytes(self) -> int:
        """Of all shards together."""
        return self.manifest.shard_bytes

    def shard(self, number: int) -> ShardEntry:
        return self._shards[number]

    def groups_by_shard(self) -> list[np.ndarray]:
        """For every shard the samples of each of its groups."""
        return np.split(self.group_sizes, self._shard_group[1:-1])

    def group_of(self, samples: np.ndarray) -> np.ndarray:
        """(n,) the group of each sample; raises IndexError for a number that no sample has."""
        if len(samples) and not 0 <= samples.min() <= samples.max() < len(self):
            raise IndexError(f"samples {samples.min()} to {samples.max()}: there are {len(self)}")
        return np.searchsorted(self._group_first, samples, side="right") - 1

    def pages(self, samples: np.ndarray) -> Iterator[tuple[Page, np.ndarray]]:
        """(page, its part of `samples`) for increasing sample numbers."""
        groups = self.group_of(samples)
        for group in distinct(groups):
            yield self.page(int(group)), samples[groups == group]

    def page(self, group: int) -> Page:
        with self._lock:
            if group in self._pages:
                self._pages.move_to_end(group)
                return self._pages[group]
        page = self._read(group)
        with self._lock:
            if group not in self._pages:
                self._pages[group] = page
                self._held += page.members.nbytes
            while self._held > PAGES_BYTES and len(self._pages) > 1:
                self._held -= self._pages.popitem(last=False)[1].members.nbytes
        return page

    def _read(self, group: int) -> Page:
        number = int(self._group_shard[group])
        shard = self._shards[number]
        mine = shard.groups[group - int(self._shard_group[number])]
        begin = int(self._group_first[group])
        row = begin - int(self._group_first[self._shard_group[number]])
        data, wanted = self._rows(shard, row, mine.samples), (mine.samples * shard.row_bytes, mine.crc32)
        if (len(data), crc32(data)) != wanted:
            raise InputError(f"{sidecar_name(shard.name)}: damaged, or not the index of these shards; index again")
        members = np.frombuffer(data, MEMBER).reshape(mine.samples, len(shard.extensions))
        if not rows_fit(members, shard.bytes):
            raise InputError(f"{sidecar_name(shard.name)}: a member outside of the shard; index again")
        return Page(number, group, begin, members)

    def _rows(self, shard: ShardEntry, row: int, samples: int) -> bytes:
        begin, length = shard.rows_at + row * shard.row_bytes, samples * shard.row_bytes
        if isinstance(self._sidecars, Mapping):
            return self._sidecars[shard.name][begin : begin + length]
        return self._sidecars.read(sidecar_name(shard.name), begin, length)


def open_index(store: Store, folder: str | None = None) -> Index:
    """The index beside the shards, or in `folder`; small data sets without one are scanned on the fly.

    Raises InputError where the shards are not those that were indexed, and for a large data set without an index.
    """
    sidecars, mend = store if folder is None else open_store(folder), f"run {index_command(store.root_name, folder)}"
    names = store.list_shards()
    manifest = find_manifest(sidecars)
    if manifest is None and folder is not None:
        raise InputError(f"{sidecars.where(MANIFEST)}: not there; {mend}")
    if manifest is None:
        return _scan(store, names)
    check_shards(manifest, {name: (store.size(name), store.etag(name)) for name in names}, store.root_name, mend)
    return Index(manifest, sidecars)


def _scan(store: Store, names: list[str]) -> Index:
    total = sum(store.size(name) for name in names)
    if total > SCAN_LIMIT:
        mend = f"run {index_command(store.root_name)}, or name its folder in data.index"
        raise InputError(f"{store.root_name}: {total / 2**30:.0f} GiB of shards without an index; {mend}")

    def scan(name: str) -> tuple[ShardEntry, bytes]:
        found = scan_shard(store, name)
        sidecar = encode_sidecar(found, name=name, size=store.size(name), etag=store.etag(name))
        return decode_sidecar(sidecar, store.where(name))[0], sidecar

    with ThreadPoolExecutor(8) as pool:
        scanned = list(pool.map(scan, names))
    entries = tuple(entry for entry, _ in scanned)
    return Index(Manifest(entries), {entry.name: sidecar for entry, sidecar in scanned})


def distinct(ordered: np.ndarray) -> np.ndarray:
    """Each of some increasing numbers once, as numpy.unique, which imports more of numpy when it is first called.

    That would be 60 ms of the first batch.
    """
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
