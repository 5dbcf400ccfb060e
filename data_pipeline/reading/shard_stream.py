"""The samples of shards in order, each byte read once and ahead of its use, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import split_name
from pineco.data_pipeline.stores.http import HttpStore
from pineco.data_pipeline.stores.store import Store
from pineco.data_pipeline.stores.tar import TarError, read_members

WINDOW = 8 << 20  # bytes of one request
AHEAD = 6 * WINDOW  # bytes on their way or waiting, beyond which nothing is asked for, but for the next window
_THREADS = 4

Members = dict[str, bytes]  # by lower-case extension


class _Window(NamedTuple):
    name: str
    offset: int
    length: int


def stream_samples(store: Store, names: Sequence[str]) -> Generator[tuple[str, str, Members], None, None]:
    """(shard, key, members) of every sample of these shards, in order.

    Holds AHEAD bytes at most; where a web server sends only whole files, two shards. Raises InputError naming the
    shard and the offset where one is damaged, and the shard that is empty or was cut while it was read.
    """
    with closing(_read_ahead(store, _windows(store, names))) as windows:
        for name in names:
            yield from ((name, key, members) for key, members in _samples(store, name, windows))


def _windows(store: Store, names: Iterable[str]) -> Iterator[_Window]:
    for name in names:
        size = store.size(name)
        step = WINDOW if not isinstance(store, HttpStore) or store.ranges else max(1, size)
        for offset in range(0, size, step):
            yield _Window(name, offset, min(step, size - offset))


def _read_ahead(store: Store, windows: Iterator[_Window]) -> Generator[bytes, None, None]:
    """The bytes of each window in order, read by threads while earlier ones are used."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="shards")
    coming: deque[tuple[_Window, Future[bytes]]] = deque()
    following = next(windows, None)
    try:
        while True:
            while following and (len(coming) < 2 or sum(w.length for w, _ in coming) + following.length <= AHEAD):
                coming.append((following, pool.submit(store.read, *following)))
                following = next(windows, None)
            if not coming:
                return
            window, future = coming.popleft()
            data = future.result()
            del future  # or its bytes would stay here while the next ones are waited for
            if len(data) != window.length:
                where = f"{store.where(window.name)}: at byte {window.offset}"
                raise InputError(f"{where}: {len(data)} of {window.length} bytes came: it was cut while it was read")
            yield data
            del data
    finally:
        pool.shutdown(cancel_futures=True)


def _samples(store: Store, name: str, windows: Iterator[bytes]) -> Iterator[tuple[str, Members]]:
    """The samples of the shard whose windows come next: consecutive members that share a key, by webdataset's rules."""
    where, size = store.where(name), store.size(name)
    read_at = _Forward(windows, size).read
    key, members, any_sample = "", Members(), False
    try:
        for member in read_members(read_at, size):
            found, extension = split_name(member.name)
            if not extension or found[-1:] in ("", "/"):
                continue  # README, ._000.jpg: no part of a sample
            if found != key and members:
                yield key, members
                members = {}
            if extension in members:
                raise TarError(member.offset, f"two members are called {member.name!r}")
            key, any_sample = found, True
            members[extension] = read_at(member.offset, member.size)
    except TarError as error:
        raise InputError(f"{where}: {error}") from None
    if not any_sample:
        raise InputError(f"{where}: an empty shard; write it again or remove it")
    yield key, members


class _Forward:
    """Reads that only move forward, served out of the windows of one shard; forgets what lies behind."""

    def __init__(self, windows: Iterator[bytes], size: int) -> None:
        self._windows, self._size = windows, size
        self._start, self._data = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the shard ends."""
        end = min(offset + length, self._size)
        if end > self._start + len(self._data):
            parts, have = [self._data[offset - self._start :]], self._start + len(self._data)
            skipped = max(0, offset - have)  # padding that reaches into a window still to come
            while have < end:
                parts.append(next(self._windows))
                have += len(parts[-1])
            self._data, self._start = b"".join(parts)[skipped:], offset
        begin = offset - self._start
        return self._data[begin : begin + end - offset]
