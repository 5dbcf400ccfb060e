"""Byte ranges of shards on a local disk, shared by all jobs of one user on a node: bounded, verified, never in the way.

A folder holds `KEY` (64 hex digits, an entry), `tmp-...` (an entry being written), `lock` and `users`. What adds or
renames a file holds the lock; what only removes one needs none. `lock` also stores a total of bytes that is never less
than what the folder holds, so that most puts need not list the folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pineco.data_pipeline.errors import InputError

HEADER = struct.Struct("<8sQI32s")  # magic, bytes and crc32 of the payload, key; the payload follows
_MAGIC = b"pineco\x00\x01"
_KEY, _TEMPORARY = re.compile(r"[0-9a-f]{64}"), re.compile(r"tmp-[0-9a-f]{32}")
_TOTAL = struct.Struct("<Q")  # bytes, in the lock file
_LARGEST = 0x7FFF_F000  # bytes that one read or write of Linux gives at most
_BATCH = 256  # entries removed at once at most, unless one needs more room; all other writers wait meanwhile
_PATIENCE = 30.0  # seconds for the lock: its holder may be listing a large folder, or have been stopped by a signal
_logger = logging.getLogger(__name__)
_first_failure = threading.Lock()  # taken for ever by the thread that logs the one warning of this process
_Take = Callable[[int, int, int], bytes | None]  # (file, length, crc32) -> what was asked for, None: damaged


@dataclass(frozen=True)
class CacheCounters:
    """What a cache has done since it was opened; hits and misses add up to the calls of `get` and `read`."""

    hits: int = 0
    misses: int = 0  # absent, damaged or unreadable
    damaged: int = 0  # entries removed because they were not what was put
    evicted: int = 0  # entries removed to make room
    failures: int = 0  # errors of the disk, and of a lock that did not come free


def key_of(index_sha256: str, begin: int, end: int) -> str:
    """The name of bytes [begin, end) of the shard whose index sidecar has this sha256: 64 lower-case hex digits.

    Equal names of shards in different places never collide, equal shards share. A key stands for content as far as the
    sidecar does, which is by crc32: that tells damage, not somebody who makes up a shard to look like another.
    """
    assert _KEY.fullmatch(index_sha256), index_sha256
    assert 0 <= begin <= end, (begin, end)
    return hashlib.sha256(f"{index_sha256} {begin} {end}".encode()).hexdigest()


class DiskCache:
    """Entries by key in a folder of at most `limit` bytes, the least recently used of which make room for new ones.

    A file counts in full before its first byte is written, so that concurrent writers together stay within the limit;
    jobs that share a folder should name the same one. A failing disk is counted, logged once, and costs only hits. Safe
    for several threads and processes; not across a fork: a new process opens its own. Meant for entries of MiB on a
    local disk: on ext4 and two CPU cores, 16 MiB take 8 to 49 ms to put and 7 to 16 ms to get, a part of 60 kB 14 us.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        """limit in bytes, headers included; makes the folder, and raises InputError where it is not safely ours."""
        if limit < 1:
            raise InputError(f"a cache limit of {limit} bytes: give at least 1, or leave the cache out")
        self.folder, self.limit = Path(folder), limit
        self._counting, self._counters = threading.Lock(), CacheCounters()
        self._patience = _PATIENCE
        try:
            self._at = self._keep(_open_folder(self.folder))
            self._join()
        except OSError as error:
            advice = "name a folder on a local disk that you can write to"
            raise InputError(f"{folder}: cannot hold a cache: {error.strerror}; {advice}") from None

    @property
    def counters(self) -> CacheCounters:
        return self._counters

    def get(self, key: str) -> bytes | None:
        """The whole entry, checked against its crc32; None where it is absent, or was damaged and is now removed."""
        return self._serve(key, _whole)

    def read(self, key: str, begin: int, length: int) -> bytes | None:
        """`length` bytes of an entry from `begin`; None as for `get`. Checks the file's size but not these bytes.

        The caller checks them, and calls `drop` when they are wrong.
        """
        assert begin >= 0, begin
        assert length >= 0, length

        def part(file: int, held: int, crc: int) -> bytes | None:
            return os.pread(file, length, HEADER.size + begin) if begin + length <= held else None

        return self._serve(key, part)

    def put(self, key: str, data: bytes) -> None:
        """Keeps `data`, unless the entry is there already, is larger than the limit, or the disk does not take it."""
        assert _KEY.fullmatch(key), key
        size = HEADER.size + len(data)
        if size > min(self.limit, _LARGEST):
            return
        try:
            if self._size(key) != size:
                self._store(key, data, size)
        except OSError as error:
            self._fail(error)

    def drop(self, key: str) -> None:
        """Removes an entry, and counts it as damaged."""
        assert _KEY.fullmatch(key), key
        try:
            if self._unlink(key):
                self._count(damaged=1)
        except OSError as error:
            self._fail(error)

    def _serve(self, key: str, take: _Take) -> bytes | None:
        assert _KEY.fullmatch(key), key
        data = None
        try:
            file = self._open(key, os.O_RDONLY)
            try:
                data = _checked(file, key, take)
                if data is not None:
                    self._touch(file)
            finally:
                os.close(file)
            if data is None:
                self.drop(key)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._fail(error)
        self._count(**{"misses" if data is None else "hits": 1})
        return data

    def _touch(self, file: int) -> None:
        """Marks an entry as used; where that fails, on a disk gone read-only, its bytes are still good."""
        try:
            _use(file)
        except OSError as error:
            self._fail(error)

    def _store(self, key: str, data: bytes, size: int) -> None:
        name = f"tmp-{secrets.token_hex(16)}"
        file = self._reserve(name, size)
        if file is None:
            return
        try:
            _write(file, HEADER.pack(_MAGIC, len(data), zlib.crc32(data), bytes.fromhex(key)))
            _write(file, data)
            _use(file)
            with self._locked():  # not files.replacing: below the folder that was checked, wherever its path leads now
                os.rename(name, key, src_dir_fd=self._at, dst_dir_fd=self._at)
        except OSError:
            self._unlink(name)
            raise
        finally:
            os.close(file)

    def _reserve(self, name: str, size: int) -> int | None:
        """A new file of `size` bytes, locked as long as its writer lives; None where other writers fill the limit."""
        with self._locked() as lock:
            total = _recorded(lock)
            if total is None or total + size > self.limit:
                total = self._make_room(size)
            if total + size > self.limit:
                _record(lock, total)
                return None
            _record(lock, total + size)  # before the file is made: a kill in between leaves the total too large
            file = self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.ftruncate(file, size)
            except OSError:
                os.close(file)
                self._unlink(name)
                raise
            return file

    def _make_room(self, size: int) -> int:
        """Bytes in the folder after the oldest entries were removed such that `size` more fit; wants the lock.

        Once it removes any it removes a batch, so that listing the folder stays rare: with 65,536 entries that takes
        0.2 to 0.5 s on an idle machine; removing one of 16 MiB takes 4 to 7 ms (ext4, two CPU cores).
        """
        entries, writing = self._scan()
        total = writing + sum(entry[1] for entry in entries)
        if total + size <= self.limit or writing + size > self.limit:
            return total
        batch = min(len(entries) // 20, _BATCH)
        for number, (_, held, key) in enumerate(sorted(entries)):
            if number >= batch and total + size <= self.limit:
                break
            self._count(evicted=int(self._unlink(key)))
            total -= held
        return total

    def _scan(self) -> tuple[list[tuple[int, int, str]], int]:
        """(time of last use, bytes, key) of every entry, and bytes of all that is being written; wants the lock."""
        entries, writing = [], 0
        with os.scandir(self._at) as files:
            for file in files:
                with suppress(FileNotFoundError):  # removed meanwhile, which needs no lock
                    if _KEY.fullmatch(file.name):
                        found = file.stat(follow_symlinks=False)
                        entries.append((found.st_mtime_ns, found.st_size, file.name))
                    elif _TEMPORARY.fullmatch(file.name):
                        writing += self._written(file.name)
        return entries, writing

    def _written(self, name: str) -> int:
        """Bytes of a file that is being written; removes it where its writer was killed."""
        file = self._open(name, os.O_RDONLY)
        try:
            if not _try_lock(file):
                return os.fstat(file).st_size
            self._unlink(name)
            return 0
        finally:
            os.close(file)

    def _join(self) -> None:
        """Registers as a user of the folder. The first one counts what is there: a crash may have lost the total."""
        users = self._keep(self._open("users", os.O_RDONLY | os.O_CREAT))
        with self._locked() as lock:
            alone, total = _try_lock(users), _recorded(lock)
            fcntl.flock(users, fcntl.LOCK_SH)
            if alone or total is None or total > self.limit:
                _record(lock, self._make_room(0))

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Holds the folder's lock, and gives its file, opened anew: so threads exclude each other as processes do."""
        lock = self._open("lock", os.O_RDWR | os.O_CREAT)
        try:
            self._wait_for(lock)
            try:
                yield lock
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # a child that was forked meanwhile may keep the file open
        finally:
            os.close(lock)

    def _wait_for(self, lock: int) -> None:
        """Raises TimeoutError after a while, then at once until the lock came free: a stopped job must not stop us."""
        deadline = time.monotonic() + self._patience
        while not _try_lock(lock):
            if time.monotonic() >= deadline:
                self._patience = 0.0
                raise TimeoutError(errno.ETIMEDOUT, "another process, perhaps a stopped one, keeps its lock")
            time.sleep(0.001)
        self._patience = _PATIENCE

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o600, dir_fd=self._at)

    def _size(self, name: str) -> int | None:
        with suppress(FileNotFoundError):
            return os.stat(name, dir_fd=self._at, follow_symlinks=False).st_size
        return None

    def _unlink(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._at)
            return True
        return False

    def _keep(self, file: int) -> int:
        """`file`, to be closed with this cache; not at exit, when a thread may still read."""
        weakref.finalize(self, os.close, file).atexit = False
        return file

    def _fail(self, error: OSError) -> None:
        self._count(failures=1)
        if _first_failure.acquire(blocking=False):
            advice = "what it cannot hold is read anew; free space or mend the disk (said once, counted always)"
            _logger.warning("cache %s: %s; %s", self.folder, error.strerror, advice)

    def _count(self, **more: int) -> None:
        with self._counting:
            self._counters = replace(self._counters, **{k: getattr(self._counters, k) + n for k, n in more.items()})


def _open_folder(folder: Path) -> int:
    """The folder, made where it is missing; raises InputError unless it is ours alone to write."""
    if folder.is_symlink():
        raise InputError(f"{folder}: a symbolic link cannot hold a cache; name the folder that it leads to")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # From here on through the open folder: what its path leads to may be changed by others.
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    found = os.fstat(at)
    problem = None
    if found.st_uid != os.geteuid():
        problem = "belongs to another user"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = "others may write to it"
    if problem:
        os.close(at)
        raise InputError(f"{folder}: {problem}, so what it holds cannot be trusted; remove it or name another folder")
    return at


def _checked(file: int, key: str, take: _Take) -> bytes | None:
    """What `take` gives; None where the header is not this key's or the file not as long as it says."""
    head = os.pread(file, HEADER.size, 0)
    if len(head) < HEADER.size:
        return None
    magic, length, crc, name = HEADER.unpack(head)
    if (magic, name.hex(), HEADER.size + length) != (_MAGIC, key, os.fstat(file).st_size):
        return None
    return take(file, length, crc)


def _whole(file: int, length: int, crc: int) -> bytes | None:
    data = os.pread(file, length, HEADER.size)
    return data if zlib.crc32(data) == crc else None


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _use(file: int) -> None:
    now = time.time_ns()  # finer than the kernel's own stamp, so that the order of use is strict
    os.utime(file, ns=(now, now))


def _try_lock(file: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _recorded(lock: int) -> int | None:
    """The total that the lock file stores; None where it is new or cut."""
    data = os.pread(lock, _TOTAL.size, 0)
    return int(_TOTAL.unpack(data)[0]) if len(data) == _TOTAL.size else None


def _record(lock: int, total: int) -> None:
    os.pwrite(lock, _TOTAL.pack(total), 0)
