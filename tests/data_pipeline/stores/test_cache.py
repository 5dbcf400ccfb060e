"""The cache on disk: what it gives is what was put, within its limit, whoever kills, tampers or fills the disk."""

from __future__ import annotations

import errno
import fcntl
import gc
import hashlib
import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores import cache as module
from pineco.data_pipeline.stores.cache import HEADER, CacheCounters, DiskCache, key_of

ROOT = Path(__file__).parents[3]
SIZE = 5000  # bytes of a payload
ENTRY = HEADER.size + SIZE
OURS = ("lock", "users")


def key(number: int) -> str:
    return key_of(hashlib.sha256(b"shard").hexdigest(), number, number + SIZE)


def data(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def fill(cache: DiskCache, *numbers: int) -> None:
    for number in numbers:
        cache.put(key(number), data(number))


def present(cache: DiskCache) -> set[int]:
    """Which of the first 100 entries are there, without using them."""
    return {number for number in range(100) if (cache.folder / key(number)).exists()}


def held(folder: Path) -> int:
    """Bytes of entries, whole and half written, at one instant: nothing is added or renamed under the lock."""
    with (folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in folder.iterdir() if path.name not in OURS)


def temporary(folder: Path) -> list[Path]:
    return sorted(folder.glob("tmp-*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is a process that has not warned yet."""
    monkeypatch.setattr(module, "_first_failure", threading.Lock())


def test_what_was_put_comes_back(folder: Path) -> None:
    """A sample would be read from the wrong bytes, or by another user of the node."""
    cache = DiskCache(folder, 3 * ENTRY)
    assert cache.get(key(1)) is None
    assert cache.read(key(1), 0, 1) is None
    cache.put(key(1), data(1))
    cache.put(key(2), b"")
    assert (cache.get(key(1)), cache.get(key(2))) == (data(1), b"")
    for begin, length in ((0, SIZE), (0, 0), (17, 100), (SIZE - 1, 1), (SIZE, 0)):
        assert cache.read(key(1), begin, length) == data(1)[begin : begin + length]
    assert cache.counters == CacheCounters(hits=7, misses=2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert not temporary(folder)


def test_a_later_run_finds_what_an_earlier_one_kept(folder: Path) -> None:
    """Every epoch of every job would read the bucket again."""
    fill(DiskCache(folder, 3 * ENTRY), 1, 2)
    assert DiskCache(str(folder), 3 * ENTRY).get(key(2)) == data(2)


def test_an_entry_that_is_there_is_not_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight ranks that share an extent would write it eight times and push out others."""
    cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 1, 2, 3)
    monkeypatch.setattr(os, "write", lambda *_: pytest.fail("written again"))
    fill(cache, 2)
    assert present(cache) == {1, 2, 3}


def test_short_writes_are_continued(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that a signal or a full pipe of the kernel cuts short would leave a hole of zeros."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, rest: write(file, rest[:777]))
    cache = DiskCache(folder, ENTRY)
    fill(cache, 1)
    assert cache.get(key(1)) == data(1)


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
ranges = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)).map(lambda pair: tuple(sorted(pair)))


@given(digests, ranges, digests, ranges)
@settings(max_examples=200, deadline=None)
def test_keys_are_of_content(digest: str, part: tuple[int, int], other: str, other_part: tuple[int, int]) -> None:
    """D5: equal basenames in different prefixes: one data set's images would come under another one's captions."""
    same = (digest, part) == (other, other_part)
    assert (key_of(digest, *part) == key_of(other, *other_part)) is same
    assert key_of(digest, *part) == key_of(digest, *part)


def test_keys_of_close_ranges_differ_and_stay() -> None:
    """Ranges whose digits run together would share an entry; a changed rule would orphan every cache in silence."""
    digest = hashlib.sha256(b"shard").hexdigest()
    assert len({key_of(digest, *part) for part in ((1, 23), (12, 3 + 9), (1, 2), (11, 23), (0, 123), (0, 0))}) == 6
    assert key_of(digest, 0, 123) == hashlib.sha256(f"{digest} 0 123".encode()).hexdigest()


@pytest.mark.parametrize("name", ["", "../x", "a" * 63, "a" * 65, "A" * 64, "a" * 64 + "\n", "tmp-" + "0" * 32, "lock"])
def test_a_name_that_is_no_key_is_our_bug(folder: Path, name: str) -> None:
    """A name from outside could lead out of the folder or to the lock."""
    cache = DiskCache(folder, ENTRY)
    calls: list[Callable[[], object]] = [
        lambda: cache.get(name),
        lambda: cache.read(name, 0, 1),
        lambda: cache.put(name, b"x"),
        lambda: cache.drop(name),
        lambda: key_of(name, 0, 1),
        lambda: key_of("0" * 64, 2, 1),
        lambda: key_of("0" * 64, -1, 1),
        lambda: cache.read(key(1), -1, 1),
        lambda: cache.read(key(1), 0, -1),
    ]
    for call in calls:
        with pytest.raises(AssertionError):
            call()
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "users"]


def flipping(at: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def cutting(length: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:length]


HEADER_BYTES = {f"header byte {at}": at for at in range(HEADER.size)}
PAYLOAD_BYTES = {f"payload byte {at}": HEADER.size + at for at in (0, 1, SIZE // 2, SIZE - 1)}
CRC = range(16, 20)
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], bool]] = {  # what is done, and whether read can tell
    **{name: (flipping(at), at not in CRC) for name, at in HEADER_BYTES.items()},
    **{name: (flipping(at), False) for name, at in PAYLOAD_BYTES.items()},
    **{
        f"cut to {length}": (cutting(length), True)
        for length in (0, 1, HEADER.size - 1, HEADER.size, HEADER.size + 1, ENTRY - 1)
    },
    "extended": (lambda raw: raw + b"\0", True),
    "zeros, as after a power cut": (lambda raw: bytes(len(raw)), True),
    "another payload of that length": (lambda raw: raw[: HEADER.size] + data(9), False),
    "an honest entry of another key": (
        lambda raw: raw[:20] + bytes.fromhex(key(2)) + raw[HEADER.size :],
        True,
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_removed_and_counted(folder: Path, damage: str) -> None:
    """D5: a tampered or torn entry would be trained on, every epoch again."""
    cache, path = DiskCache(folder, 3 * ENTRY), folder / key(1)
    change, read_tells = DAMAGE[damage]
    fill(cache, 1)
    path.write_bytes(change(path.read_bytes()))
    assert cache.get(key(1)) is None
    assert cache.counters == CacheCounters(misses=1, damaged=1)
    assert not path.exists()
    fill(cache, 1)
    path.write_bytes(change(path.read_bytes()))
    part = cache.read(key(1), 10, 100)
    assert (part is None, path.exists()) == (read_tells, not read_tells)
    if not read_tells:  # the caller's turn
        cache.drop(key(1))
    assert cache.counters.damaged == 2
    fill(cache, 1)
    assert cache.get(key(1)) == data(1)


def test_a_part_beyond_the_entry_is_no_part(folder: Path) -> None:
    """An honest but short entry would give fewer bytes than were asked for."""
    cache = DiskCache(folder, ENTRY)
    for begin, length in ((SIZE, 1), (SIZE - 1, 2), (10**12, 0)):
        fill(cache, 1)
        assert cache.read(key(1), begin, length) is None
        assert not (folder / key(1)).exists()
    assert cache.counters.damaged == 3


def test_a_symbolic_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """A name in the folder could show, or have overwritten, any file of ours."""
    cache, target = DiskCache(folder, 3 * ENTRY), tmp_path / "target"
    fill(cache, 1)
    target.write_bytes((folder / key(1)).read_bytes())
    (folder / key(1)).unlink()
    (folder / key(1)).symlink_to(target)
    before = target.read_bytes()
    assert cache.get(key(1)) is cache.read(key(1), 0, 5) is None
    fill(cache, 1)
    assert not (folder / key(1)).is_symlink()
    assert (cache.get(key(1)), target.read_bytes()) == (data(1), before)


def test_drop_counts_what_it_removed(folder: Path) -> None:
    """Two threads that find the same damage would count it twice."""
    cache = DiskCache(folder, ENTRY)
    fill(cache, 1)
    cache.drop(key(1))
    cache.drop(key(1))
    assert cache.counters == CacheCounters(damaged=1)


def test_the_least_recently_used_makes_room(folder: Path) -> None:
    """D5: what every job reads all the time would go first."""
    cache, other_job = DiskCache(folder, 3 * ENTRY), DiskCache(folder, 3 * ENTRY)
    fill(cache, 1, 2, 3)
    assert cache.get(key(1))
    fill(cache, 4)
    assert present(cache) == {1, 3, 4}
    assert other_job.read(key(3), 0, 10)
    fill(cache, 5)
    assert present(cache) == {3, 4, 5}
    fill(other_job, 6)
    assert present(cache) == {3, 5, 6}
    assert (cache.counters.evicted, other_job.counters.evicted) == (2, 1)


def test_an_entry_larger_than_the_limit_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would push out everything, and then not fit; or have the folder listed for nothing."""
    cache = DiskCache(folder, ENTRY)
    fill(cache, 1)
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("listed"))
    cache.put(key(2), data(2) + b"x")
    assert present(cache) == {1}
    assert cache.counters == CacheCounters()


def test_one_large_entry_pushes_out_several(folder: Path) -> None:
    """The limit would be passed by the difference."""
    cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 1, 2, 3)
    cache.put(key(4), bytes(SIZE + ENTRY))
    assert present(cache) == {3, 4}
    assert held(folder) == 3 * ENTRY


def test_the_folder_is_listed_rarely(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 65,000 entries each put would take half a second, and hold up every other job."""
    cache, listings, scandir = DiskCache(folder, 60 * ENTRY), [0], os.scandir

    def counted(at: Any) -> Any:
        listings[0] += 1
        return scandir(at)

    monkeypatch.setattr(os, "scandir", counted)
    fill(cache, *range(60))
    assert listings == [0]
    fill(cache, 60)
    assert present(cache) == set(range(3, 61)), "a twentieth, and the oldest of all"
    fill(cache, *range(61, 100))
    assert listings == [14]
    assert held(folder) <= 60 * ENTRY
    monkeypatch.setattr(module, "_BATCH", 2)
    fill(cache, 0, 1, 2)
    assert present(cache) == {*range(44, 100), 0, 1, 2}, "two of 60 at once: all other writers wait meanwhile"


@pytest.mark.parametrize("alone", [True, False], ids=["first to open", "beside a running job"])
def test_a_smaller_limit_holds_at_once(folder: Path, alone: bool) -> None:
    """A disk that was getting full would stay so until something new is put."""
    larger = DiskCache(folder, 5 * ENTRY)
    fill(larger, 1, 2, 3, 4, 5)
    if alone:
        del larger
    smaller = DiskCache(folder, 2 * ENTRY)
    assert present(smaller) == {4, 5}
    assert smaller.counters.evicted == 3


@pytest.mark.parametrize("content", [b"", b"\1", bytes(8)], ids=["lost", "cut", "too small"])
def test_a_total_that_a_crash_lost_is_counted_anew(folder: Path, content: bytes) -> None:
    """After a power cut the cache would grow by its whole size again."""
    cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 1, 2, 3)
    (folder / "lock").write_bytes(content)
    if content == bytes(8):  # looks right: only the first to open the folder can know
        del cache
        gc.collect()
        cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 4)
    assert present(cache) == {2, 3, 4}


def test_only_the_first_job_lists_the_folder_at_its_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty-two ranks would list 65,000 entries one after the other."""
    first = DiskCache(folder, 3 * ENTRY)
    fill(first, 1, 2, 3)
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("listed again"))
    second = DiskCache(folder, 3 * ENTRY)
    del first
    assert DiskCache(folder, 3 * ENTRY).get(key(1)) == second.get(key(1)) == data(1)


def test_entries_may_go_while_the_folder_is_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that find damage at the wrong moment would make a put fail."""
    cache, scandir = DiskCache(folder, 3 * ENTRY), os.scandir
    fill(cache, 1, 2, 3)

    @contextmanager
    def removing(at: int) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(at) as files:
            found = list(files)
        (folder / key(1)).unlink()
        yield found

    monkeypatch.setattr(os, "scandir", removing)
    fill(cache, 4)
    assert present(cache) == {2, 3, 4}
    assert cache.counters == CacheCounters()


def test_files_of_others_stay(folder: Path) -> None:
    """A cache in the wrong folder would delete somebody's work."""
    folder.mkdir(mode=0o700)
    names = ["notes.txt", "tmp-notes", "a" * 63, "A" * 64, key(1) + ".bak"]
    for name in names:
        (folder / name).write_bytes(bytes(10 * ENTRY))
    cache = DiskCache(folder, ENTRY)
    fill(cache, 1, 2, 3)
    assert {path.name for path in folder.iterdir()} == {*names, *OURS, key(3)}


class AgainstAModel(RuleBasedStateMachine):
    """D5: some order of calls, damage, kills and restarts would give wrong bytes or push out the wrong entry."""

    numbers, limit = st.integers(0, 7), 3 * ENTRY

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name) / "cache"
        self.model: list[int] = []  # the least recently used one first
        self.cache = DiskCache(self.folder, self.limit)

    def teardown(self) -> None:
        del self.cache
        self.place.cleanup()

    @staticmethod
    def data(number: int) -> bytes:
        return data(number)[: 500 + 600 * number]  # from a tenth of an entry to a whole one

    def make_room(self, number: int) -> None:
        while sum(len(self.data(n)) + HEADER.size for n in [*self.model, number]) > self.limit:
            self.model.pop(0)

    def used(self, number: int) -> bool:
        if number in self.model:
            self.model.append(self.model.pop(self.model.index(number)))
        return number in self.model

    @rule(number=numbers)
    def put(self, number: int) -> None:
        self.cache.put(key(number), self.data(number))
        if number not in self.model:
            self.make_room(number)
            self.model.append(number)

    @rule(number=numbers)
    def get(self, number: int) -> None:
        assert self.cache.get(key(number)) == (self.data(number) if self.used(number) else None)

    @rule(number=numbers, begin=st.integers(0, 300), length=st.integers(0, 200))
    def read(self, number: int, begin: int, length: int) -> None:
        part = self.data(number)[begin : begin + length]
        assert self.cache.read(key(number), begin, length) == (part if self.used(number) else None)

    @rule(number=numbers)
    def drop(self, number: int) -> None:
        self.cache.drop(key(number))
        self.model = [n for n in self.model if n != number]

    @rule(number=numbers, where=st.floats(0, 1, exclude_max=True))
    def tamper(self, number: int, where: float) -> None:
        if number in self.model:
            raw = (self.folder / key(number)).read_bytes()
            (self.folder / key(number)).write_bytes(flipping(int(where * len(raw)))(raw))
            assert self.cache.get(key(number)) is None
            self.model.remove(number)

    @rule(number=numbers)
    def killed_while_writing(self, number: int) -> None:
        """What a kill leaves: a file of full size that nobody has locked."""
        with mock.patch.object(os, "write", side_effect=KeyboardInterrupt):
            try:
                self.cache.put(key(number), self.data(number))
            except KeyboardInterrupt:
                self.make_room(number)
            else:
                assert number in self.model

    @rule()
    def open_again(self) -> None:
        self.cache = DiskCache(self.folder, self.limit)

    @invariant()
    def holds_what_it_should(self) -> None:
        names = {path.name for path in self.folder.iterdir() if len(path.name) == 64}
        assert names == {key(number) for number in self.model}
        assert held(self.folder) <= self.limit
        assert self.cache.counters.failures == 0


AgainstAModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase


PRELUDE = f"""
import dataclasses, hashlib, json, os, random, sys, time
from pineco.data_pipeline.stores.cache import DiskCache, key_of

def key(number):
    return key_of(hashlib.sha256(b"shard").hexdigest(), number, number + {SIZE})

def data(number):
    return random.Random(number).randbytes({SIZE})

folder, seed = sys.argv[1], int(sys.argv[2])
cache = DiskCache(folder, {3 * ENTRY})
"""


def child(code: str, folder: Path, seed: int) -> subprocess.Popen[str]:
    """A process of its own, which imports little and so starts soon; kill it or wait for it."""
    command = [sys.executable, "-c", PRELUDE + code, str(folder), str(seed)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


HAMMER = f"""
draw = random.Random(seed)
for _ in range(600):
    number, begin = draw.randrange(6), draw.randrange({SIZE - 100})
    whole, part = cache.get(key(number)), cache.read(key(number), begin, 100)
    assert whole in (None, data(number))
    assert part in (None, data(number)[begin : begin + 100])
    if whole is None:
        cache.put(key(number), data(number))
print(json.dumps(dataclasses.asdict(cache.counters)))
"""


def test_two_jobs_share_a_cache(folder: Path) -> None:
    """D5: two jobs with a limit of three entries: they would overshoot it together, or read what the other writes."""
    cache, most, looks = DiskCache(folder, 3 * ENTRY), 0, 0
    jobs = [child(HAMMER, folder, seed) for seed in (1, 2)]
    while any(job.poll() is None for job in jobs):
        most, looks = max(most, held(folder)), looks + 1
        time.sleep(0.002)  # looking holds the lock: the jobs want it too
    for job in jobs:
        output = job.communicate()[0]
        assert job.returncode == 0
        counters = CacheCounters(**json.loads(output))
        assert counters.hits + counters.misses == 1200
        assert min(counters.hits, counters.misses, counters.evicted) > 100
        assert counters.damaged == counters.failures == 0
    assert looks > 10
    assert most == 3 * ENTRY, "the limit was passed, or never reached"
    assert not temporary(folder)
    assert cache.counters == CacheCounters()


def test_threads_share_a_cache(folder: Path) -> None:
    """Two fetching threads would mix their files or lose counts."""
    cache = DiskCache(folder, 3 * ENTRY)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(200):
            number = draw.randrange(6)
            whole = cache.get(key(number))
            assert whole in (None, data(number))
            if whole is None:
                cache.put(key(number), data(number))
            assert held(folder) <= 3 * ENTRY

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    counters = cache.counters
    assert counters.hits + counters.misses == 1600
    assert min(counters.hits, counters.evicted) > 0
    assert counters.damaged == counters.failures == 0
    assert not temporary(folder)


STOP_AT = """
calls = 0

def stopping(name):
    function = getattr(os, name)
    def stop(*arguments, **options):
        global calls
        calls += 1
        if calls == seed:
            print(name, flush=True)
            time.sleep(60)
        return function(*arguments, **options)
    return stop

write = os.write
os.write = lambda file, rest: write(file, rest[:2000])
for name in ("open", "pwrite", "scandir", "unlink", "ftruncate", "write", "utime", "rename", "close"):
    setattr(os, name, stopping(name))
cache.put(key(9), data(9))
print("done", flush=True)
"""


def kill(job: subprocess.Popen[str]) -> None:
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert job.stdout
    job.stdout.close()


def check_after_a_kill(folder: Path, number: int, alone: bool) -> None:
    """What any other job may rely on, one that ran all the time and one that starts later."""
    assert held(folder) <= 3 * ENTRY
    job = DiskCache(folder, 3 * ENTRY)
    for n in range(20):
        assert job.get(key(n)) in (None, data(n))
    fill(job, number)
    assert job.get(key(number)) == data(number)
    assert held(folder) <= 3 * ENTRY
    assert job.counters.damaged == job.counters.failures == 0
    if alone:
        assert not temporary(folder), "the first job to open a folder mends it"


@pytest.mark.parametrize("alone", [True, False], ids=["first to open", "beside a running job"])
def test_a_kill_at_any_step_of_a_put(folder: Path, alone: bool) -> None:
    """D5: kill -9 between any two system calls would leave a torn entry, a lock, or bytes that nobody counts."""
    running, steps = None if alone else DiskCache(folder, 3 * ENTRY), []
    for step in range(1, 100):
        fill(DiskCache(folder, 3 * ENTRY), 1, 2, 3)
        gc.collect()
        with child(STOP_AT, folder, step) as job:
            assert job.stdout
            steps.append(job.stdout.readline().strip())
            kill(job)
        check_after_a_kill(folder, 10 + step % 5, alone)
        if steps[-1] == "done":
            break
        DiskCache(folder, 3 * ENTRY).drop(key(9))
    assert steps[-1] == "done"
    assert {"open", "pwrite", "scandir", "unlink", "ftruncate", "write", "utime", "rename", "close"} <= set(steps)
    assert steps.count("write") >= 4
    assert running is None or running.get(key(10 + step % 5)) is not None


SLOWLY = """
write = os.write

def slow(file, rest):
    time.sleep(0.0005)
    return write(file, rest[:500])

os.write = slow
print("ready", flush=True)
for number in range(10**6):
    cache.put(key(number % 9), data(number % 9))
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_a_random_instant(folder: Path, seed: int) -> None:
    """D5: as above, where no one thought of it."""
    with child(SLOWLY, folder, 0) as job:
        assert job.stdout
        assert job.stdout.readline() == "ready\n"
        time.sleep(random.Random(seed).uniform(0, 0.1))  # the instant, not a wait for something
        kill(job)
    check_after_a_kill(folder, 15, alone=True)


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """(reached, go on): the first write of a thread called "slow" waits there."""
    reached, go_on, write = threading.Event(), threading.Event(), os.write

    def wait(file: int, rest: memoryview) -> int:
        if threading.current_thread().name == "slow":
            reached.set()
            assert go_on.wait(20)
        return write(file, rest)

    monkeypatch.setattr(os, "write", wait)
    yield reached, go_on
    go_on.set()


def test_a_slow_writer_is_not_taken_for_a_dead_one(
    folder: Path, paused: tuple[threading.Event, threading.Event]
) -> None:
    """Another job would remove the file under its writer, or overlook its bytes."""
    reached, go_on = paused
    slow_job, other = DiskCache(folder, 3 * ENTRY), DiskCache(folder, 3 * ENTRY)
    thread = threading.Thread(target=fill, args=(slow_job, 1), name="slow")
    thread.start()
    assert reached.wait(20)
    fill(other, 2, 3, 4, 5)
    assert present(other) == {4, 5}
    assert held(folder) == 3 * ENTRY
    assert DiskCache(folder, 3 * ENTRY).get(key(1)) is None
    go_on.set()
    thread.join()
    assert other.get(key(1)) == data(1)
    assert present(other) == {1, 4, 5}


def test_writers_that_fill_the_limit_leave_no_room(
    folder: Path, paused: tuple[threading.Event, threading.Event]
) -> None:
    """D5: as many entries as there are writers would lie above the limit."""
    reached, go_on = paused
    cache = DiskCache(folder, ENTRY + 1000)
    cache.put(key(2), bytes(500))
    thread = threading.Thread(target=fill, args=(cache, 1), name="slow")
    thread.start()
    assert reached.wait(20)
    fill(cache, 3)
    assert present(cache) == {2}, "what is there need not go for what has no room anyway"
    assert held(folder) <= ENTRY + 1000
    go_on.set()
    thread.join()
    assert present(cache) == {1, 2}
    assert cache.counters == CacheCounters()


def test_an_entry_may_go_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that makes room would cut another one's read short."""
    cache, other, pread = DiskCache(folder, ENTRY), DiskCache(folder, ENTRY), os.pread

    def evicting(file: int, length: int, offset: int) -> bytes:
        if offset >= HEADER.size:
            fill(other, 2)
        return pread(file, length, offset)

    for take in (lambda: cache.get(key(1)), lambda: cache.read(key(1), 0, SIZE)):
        other.drop(key(2))
        fill(other, 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", evicting)
            assert take() == data(1)
        assert present(cache) == {2}
    assert cache.counters == CacheCounters(hits=2)


def test_a_stopped_job_stops_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that SLURM suspended while it held the lock would hang every job of its node."""
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 1)
    with (folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fill(cache, 2, 3)
        assert cache.get(key(1)) == data(1), "reading needs no lock"
        with pytest.raises(InputError, match="another process, perhaps a stopped one"):
            DiskCache(folder, 3 * ENTRY)
        assert cache._patience == 0, "each of 65,000 entries would wait"
    fill(cache, 4)
    assert cache._patience > 0, "a lock that is free again is worth waiting for"
    assert present(cache) == {1, 4}
    assert cache.counters == CacheCounters(hits=1, failures=2)
    assert len(caplog.records) == 1


FAILURES = [
    ("write", errno.ENOSPC),
    ("write", errno.EDQUOT),
    ("write", errno.EIO),
    ("open", errno.EROFS),
    ("open", errno.EMFILE),
    ("ftruncate", errno.EFBIG),
    ("pwrite", errno.ENOSPC),
    ("rename", errno.EIO),
    ("utime", errno.EROFS),
    ("scandir", errno.EIO),
    ("unlink", errno.EROFS),
    ("stat", errno.EIO),
]


def open_files(folder: Path) -> int:
    """How many of our descriptors lead into the folder; those of other tests may close at any moment."""
    count = 0
    for link in Path("/dev/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists
            count += link.readlink().is_relative_to(folder.resolve())
    return count


@pytest.mark.parametrize(("call", "number"), FAILURES, ids=[f"{c}-{errno.errorcode[n]}" for c, n in FAILURES])
def test_a_failing_put_is_counted_and_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str, number: int
) -> None:
    """D5, F17: a full disk would end the training, fill the log, or leave the cache broken when it has room again."""
    cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 1, 2, 3)
    files = open_files(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, mock.Mock(side_effect=OSError(number, os.strerror(number))))
        fill(cache, 4, 5, 6)
    assert open_files(folder) == files
    assert cache.counters.failures == 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{folder}: {os.strerror(number)}" in record.getMessage()
    assert not temporary(folder)
    assert held(folder) <= 3 * ENTRY
    for entry in range(20):
        assert cache.get(key(entry)) in (None, data(entry))
    fill(cache, 7, 8, 9)
    assert present(cache) == {7, 8, 9}
    assert held(folder) == 3 * ENTRY
    assert not temporary(folder)
    assert cache.counters.failures == 3


@pytest.mark.parametrize("call", ["open", "pread", "fstat"])
def test_a_failing_read_is_a_miss(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """A bad block of the cache's disk would end a training that has the bucket to read from."""
    cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 1)
    files = open_files(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        assert cache.get(key(1)) is cache.read(key(1), 0, 9) is None
    assert cache.counters == CacheCounters(misses=2, failures=2)
    assert len(caplog.records) == 1
    assert open_files(folder) == files
    assert cache.get(key(1)) == data(1)


def test_entries_of_a_disk_gone_read_only_still_serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that went read-only after an error would take the good entries with it."""
    cache, refused = DiskCache(folder, 3 * ENTRY), OSError(errno.EROFS, "Read-only file system")
    fill(cache, 1, 2)
    for call in ("utime", "unlink"):
        monkeypatch.setattr(os, call, mock.Mock(side_effect=refused))
    assert cache.get(key(1)) == data(1)
    cache.drop(key(2))
    assert cache.counters == CacheCounters(hits=1, failures=2)


def test_a_cache_removed_under_a_job(folder: Path) -> None:
    """`rm -r` of the cache, to make space, would end the training."""
    cache = DiskCache(folder, 3 * ENTRY)
    fill(cache, 1)
    for path in folder.iterdir():
        path.unlink()
    fill(cache, 2)
    assert cache.get(key(2)) == data(2)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    fill(cache, 3)
    assert cache.get(key(3)) is None
    assert cache.counters == CacheCounters(hits=1, misses=1, failures=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system; needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_full(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """D5, F17: what monkeypatching says of a full disk need not be what a full disk does."""
    cache = DiskCache(small_disk / "cache", 1 << 30)
    big = random.Random(0).randbytes(100_000)
    for number in range(6):
        cache.put(key(number), big)
    assert present(cache) == {0, 1}
    assert cache.get(key(1)) == big
    assert cache.counters == CacheCounters(hits=1, failures=4)
    assert not temporary(cache.folder)
    assert len(caplog.records) == 1
    cache.drop(key(0))
    cache.put(key(7), big)
    assert cache.get(key(7)) == big


def test_a_disk_that_is_read_only(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F17: a mount that turns read-only would end the training; one that is so from the start is a mistake to mend."""
    cache = DiskCache(small_disk / "cache", 3 * ENTRY)
    fill(cache, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cache.get(key(1)) == data(1)
    fill(cache, 2)
    cache.drop(key(1))
    assert cache.counters == CacheCounters(hits=1, failures=3)
    assert len(caplog.records) == 1
    with pytest.raises(InputError, match="Read-only file system; name a folder on a local disk that you can write to"):
        DiskCache(small_disk / "cache", 3 * ENTRY)


def refusal(folder: Path, limit: int = ENTRY) -> str:
    files = open_files(folder.parent)
    with pytest.raises(InputError) as caught:
        DiskCache(folder, limit)
    assert "\n" not in str(caught.value)
    assert open_files(folder.parent) == files
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o777, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(folder: Path, mode: int) -> None:
    """D5: another user of the node could put images of their choice into our training."""
    folder.mkdir()
    folder.chmod(mode)
    advice = "others may write to it, so what it holds cannot be trusted; remove it or name another folder"
    assert refusal(folder) == f"{folder}: {advice}"
    assert not list(folder.iterdir())


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D5: another user may have made the folder under its well-known name before us."""
    folder.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", mock.Mock(return_value=os.geteuid() + 1))
    assert "belongs to another user, so what it holds cannot be trusted" in refusal(folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_as_the_folder_is_refused(folder: Path, tmp_path: Path, exists: bool) -> None:
    """D5: whoever may change the link could send our files elsewhere."""
    folder.symlink_to(tmp_path / "elsewhere")
    if exists:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
    assert "a symbolic link cannot hold a cache; name the folder that it leads to" in refusal(folder)
    assert not list(tmp_path.glob("elsewhere/*"))


def test_a_link_above_the_folder_is_fine(tmp_path: Path) -> None:
    """Clusters link /scratch to where the disk is."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "scratch").symlink_to(tmp_path / "disk")
    cache = DiskCache(tmp_path / "scratch" / "me" / "cache", ENTRY)
    fill(cache, 1)
    assert (tmp_path / "disk" / "me" / "cache" / key(1)).exists()


def test_a_folder_that_was_swapped_is_not_used(folder: Path, tmp_path: Path) -> None:
    """Who may rename our folder could put theirs in its place after it was checked."""
    cache = DiskCache(folder, ENTRY)
    fill(cache, 1)
    folder.rename(tmp_path / "ours")
    folder.mkdir(mode=0o777)
    fill(cache, 2)
    assert cache.get(key(2)) == data(2)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(folder: Path, limit: int) -> None:
    """A cache that can hold nothing would be taken for a slow network."""
    assert refusal(folder, limit) == f"a cache limit of {limit} bytes: give at least 1, or leave the cache out"
    assert not folder.exists()


def test_a_file_is_no_folder(folder: Path) -> None:
    """A traceback would show where one line tells what to mend."""
    folder.write_text("")
    assert f"{folder}: cannot hold a cache: File exists" in refusal(folder)
    assert f"{folder}/x: cannot hold a cache: Not a directory" in refusal(folder / "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; a read-only mount is tested instead")
def test_a_folder_that_we_may_not_write_to_is_refused(folder: Path) -> None:
    """The run would start, and fetch everything again in every epoch."""
    folder.mkdir(mode=0o500)
    assert "Permission denied; name a folder on a local disk that you can write to" in refusal(folder)


def test_threads_may_read_until_the_end_of_the_process(folder: Path) -> None:
    """A fetching thread would read another file's bytes, or warn of a bad disk, whenever a run ends."""
    fill(DiskCache(folder, 3 * ENTRY), 1)
    last = "import atexit\natexit.register(lambda: print(cache.get(key(1)) == data(1)))\n"
    command = [sys.executable, "-c", last + PRELUDE, str(folder), "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_cache_leaves_no_open_files(folder: Path) -> None:
    """A run that opens one for every split and evaluation would run out of files."""
    files = open_files(folder)
    for _ in range(20):
        cache = DiskCache(folder, 3 * ENTRY)
        hits = [cache.get(key(1)), cache.read(key(1), 0, 1)]
        fill(cache, 1)
    assert all(hits)
    del cache
    assert open_files(folder) == files
