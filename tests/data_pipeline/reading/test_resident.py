"""Small data sets stay in memory: read once, by one thread a group, and given out as they were read."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import open_index
from pineco.data_pipeline.reading.reader import ReadCounters, SampleError, ShardReader
from pineco.data_pipeline.reading.resident import ResidentReader, keep_if_small
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.shards import write_shard

SAMPLES = 40  # in shards of 25 and 15; each shard is one group


class SlowStore(LocalStore):
    """Counts its reads; `failing` makes them fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[tuple[str, int]] = []
        self.failing = False

    def read(self, name: str, offset: int, length: int) -> bytes:
        self.reads.append((name, length))
        if self.failing:
            raise InputError("the store is gone")
        return super().read(name, offset, length)


def payload(number: int) -> bytes:
    return random.Random(number).randbytes(500)


@pytest.fixture
def store(tmp_path: Path) -> SlowStore:
    for name, numbers in (("0.tar", range(25)), ("1.tar", range(25, SAMPLES))):
        write_shard(tmp_path / name, [(f"{i:03}.jpg", payload(i)) for i in numbers])
    return SlowStore(tmp_path)


@pytest.fixture
def reader(store: SlowStore) -> ResidentReader:
    index = open_index(store)
    store.reads.clear()
    return ResidentReader(ShardReader(store, index, ("jpg",)), index)


def check(reader: ResidentReader, rows: list[int], *, ahead: bool) -> None:
    assert reader.read(np.array(rows), ahead=ahead) == {row: {"jpg": payload(row)} for row in rows}


def test_everything_is_read_once(reader: ResidentReader, store: SlowStore) -> None:
    """Every epoch would read the data set again."""
    check(reader, [3, 30], ahead=False)
    assert len(store.reads) == 2
    check(reader, [1, 2, 3], ahead=True)  # takes in the rest of the first group with it
    taken = len(store.reads)
    for ahead in (False, True):
        check(reader, list(range(25)), ahead=ahead)
    assert len(store.reads) == taken <= 4
    check(reader, list(range(SAMPLES)), ahead=True)
    taken = len(store.reads)
    for ahead in (False, True):
        check(reader, list(range(SAMPLES)), ahead=ahead)
    assert len(store.reads) == taken
    assert reader.counters == ReadCounters(bytes=sum(length for _, length in store.reads), reads=taken)


def test_a_batch_does_not_wait_for_whole_groups(reader: ResidentReader, store: SlowStore) -> None:
    """The first step of a run would wait for 16 MiB of every shard."""
    check(reader, [7], ahead=False)
    assert store.reads == [("0.tar", 500)]


def test_threads_take_in_a_group_once(reader: ResidentReader, store: SlowStore) -> None:
    """Each of sixteen connections would fetch the same 16 MiB."""
    together = threading.Barrier(8)

    def read(n: int) -> None:
        together.wait(10)
        check(reader, list(range(n, SAMPLES, 8)), ahead=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    assert len(store.reads) == 2


def test_threads_that_read_alone_and_ahead_agree(reader: ResidentReader) -> None:
    """A sample that two threads read at the same time would be lost for one of them."""
    draw = random.Random(0)
    picks = [sorted(draw.sample(range(SAMPLES), 5)) for _ in range(300)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: check(reader, picks[n], ahead=n % 3 == 0), range(300)))


def test_a_bad_sample_stays_bad(reader: ResidentReader, store: SlowStore) -> None:
    """It would be good in one epoch and bad in the next: the run could not be repeated."""
    with (store.root / "0.tar").open("r+b") as file:
        file.seek(512 + 100)
        file.write(b"\0\0\0")
    for ahead in (True, False, True):
        found = reader.read(np.array([0, 1]), ahead=ahead)
        assert isinstance(found[0], SampleError)
        assert found[1] == {"jpg": payload(1)}
    assert reader.origin(0).key == "000"


def test_an_outage_is_not_remembered(reader: ResidentReader, store: SlowStore) -> None:
    """What failed once would stay missing, or its group locked."""
    store.failing = True
    for ahead in (True, False):
        with pytest.raises(InputError, match="the store is gone"):
            reader.read(np.array([5]), ahead=ahead)
    store.failing = False
    check(reader, [5], ahead=True)


def test_nothing_keeps_more_than_its_own_bytes(reader: ResidentReader) -> None:
    """A few samples of a range would keep all of it, and the data set take more memory than it was measured for."""
    for ahead in (False, True):
        found = reader.read(np.arange(SAMPLES), ahead=ahead)
        assert all(type(data) is bytes for members in found.values() for data in members.values())  # type: ignore[union-attr]


def test_only_what_fits_is_kept(store: SlowStore) -> None:
    """A large data set would fill the memory, or a small one be read anew in every epoch."""
    index = open_index(store)
    reader = ShardReader(store, index, ("jpg",))
    size = sum((store.root / name).stat().st_size for name in ("0.tar", "1.tar"))
    assert keep_if_small(reader, index, size - 1) is reader
    kept = keep_if_small(reader, index, size)
    assert isinstance(kept, ResidentReader)
    assert kept.row_bytes == reader.row_bytes == size / SAMPLES
