"""One pass over a shard: every header parsed, every byte of every member that is read summed up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isal.isal_zlib import crc32

from pineco.data_pipeline.index.samples import split_name
from pineco.data_pipeline.index.table import DamagedError, Rows, ShardIndex, is_read
from pineco.data_pipeline.stores.store import LocalStore, Store
from pineco.data_pipeline.stores.tar import TarError, read_members

WINDOW = 8 << 20  # bytes of one read
MAX_KINDS = 64  # of members in one shard: more are no data set but names that were taken for extensions
MAX_SIZE = (1 << 32) - 1  # bytes of a member that an index describes


def scan_shard(store: Store, name: str, advance: Callable[[int], object] = lambda size: None) -> ShardIndex:
    """The index of one shard; raises DamagedError naming shard and offset where it is cut or damaged.

    A member that comes twice in a sample begins a new sample with the same key. advance: told how many bytes were read.
    """
    try:
        return _scan(Window(store, name, advance), store.size(name))
    except TarError as error:
        raise DamagedError(f"{store.where(name)}: {error}") from None


def scan_file(path: Path) -> ShardIndex:
    """The index of a shard in a local file."""
    return scan_shard(LocalStore(path.parent), path.name)


def _scan(window: Window, shard_bytes: int) -> ShardIndex:
    rows, last, ignored = Rows(), "", 0
    for name, offset, size in read_members(window, shard_bytes):
        key, extension = split_name(name)
        has_key = bool(extension) and key[-1:] not in ("", "/")
        if not has_key or not is_read(extension):
            ignored += 1
            last = "" if has_key and key != last else last  # the sample between two ends the one before it
            continue
        if extension not in rows.columns and len(rows.columns) == MAX_KINDS:
            raise TarError(offset, f"more than {MAX_KINDS} kinds of members, at last {extension!r}")
        if size > MAX_SIZE:
            raise TarError(offset, f"{name!r} has {size} bytes (limit {MAX_SIZE})")
        rows.add(extension, offset, size, window.crc32(offset, size), same_sample=key == last)
        last = key
    return rows.index(ignored, window.seen_crc32)


class Window:
    """The piece of a shard that was read last; it only moves forward. Called, it is what `read_members` reads by."""

    def __init__(self, store: Store, name: str, advance: Callable[[int], object] = lambda size: None) -> None:
        self._store, self._name, self._advance = store, name, advance
        self._start, self._data = 0, memoryview(b"")
        self.seen_crc32 = 0  # of all that the parser saw, which is the headers and the end

    def __call__(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only where the shard ends."""
        begin = offset - self._start
        if not 0 <= begin <= len(self._data) - length:
            self._move(offset, length)
            begin = 0
        seen = self._data[begin : begin + length].tobytes()
        self.seen_crc32 = crc32(seen, self.seen_crc32)
        return seen

    def crc32(self, offset: int, size: int) -> int:
        """Of `size` bytes at `offset`; raises TarError where the shard is shorter."""
        total, end = 0, offset + size
        while offset < end:
            if not 0 <= offset - self._start < len(self._data):
                self._move(offset, 1)
            piece = self._data[offset - self._start : end - self._start]
            if not piece:
                raise TarError(offset, "the shard is shorter than when it was listed: leave it alone while indexing")
            total = crc32(piece, total)
            offset += len(piece)
        return total

    def _move(self, offset: int, length: int) -> None:
        self._start, self._data = offset, memoryview(self._store.read(self._name, offset, max(length, WINDOW)))
        self._advance(len(self._data))
