"""Reading ahead: what batches take is there, nothing is read in vain, memory is bounded, and it ends when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.order import EpochOrder, Extents, Run, cut_extents
from pineco.data_pipeline.reading.read_ahead import ReadAhead
from pineco.data_pipeline.reading.reader import Members, SampleError
from tests.support.sources import NumberReader

LONG = 10.0  # seconds; far more than anything here takes
LANES = 4


class Trainer:
    """Takes the batches of one rank in their order, `ahead` of which are requested before the first one is taken."""

    def __init__(
        self,
        extents: Extents,
        reader: NumberReader,
        *,
        batch_size: int = 16,
        lanes: int = LANES,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        ahead: int = 0,
        samples_held: float = 1e9,
        threads: int = 4,
        block: int = 4,
    ) -> None:
        self._make_order = lambda epoch: EpochOrder(extents, seed=0, epoch=epoch, lanes=lanes, block=block)
        self._slice, self.runs_seen = (batch_size, rank, world), 0
        self._orders: dict[int, EpochOrder] = {}
        self.batches, self.start, self.reader = self.order(0).batches(batch_size), start, reader
        memory = int(samples_held * reader.row_bytes)
        rows = lambda samples: samples[:, None]  # noqa: E731
        self.read_ahead = ReadAhead(reader, rows, self._runs(), threads=threads, memory=memory)
        self._places = ((e, t) for e in count() for t in range(start if e == 0 else 0, self.batches))
        self.requested: list[tuple[int, list[int]]] = []
        for _ in range(ahead):
            self.request()

    def order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            self._orders[epoch] = self._make_order(epoch)
        return self._orders[epoch]

    def request(self) -> None:
        epoch, batch = next(self._places)
        samples = self.order(epoch).batch(batch, *self._slice)
        self.read_ahead.request(epoch, batch, samples)
        self.requested.append((epoch, samples.tolist()))

    def step(self) -> list[int]:
        self.request()
        epoch, samples = self.requested.pop(0)
        for sample in samples:
            (row,) = self.read_ahead.take(epoch, sample)
            assert row == {"txt": str(sample).encode()}
        return samples

    def settle(self) -> None:
        """Waits until no run is being read and none can be begun."""

        def idle() -> bool:
            with self.read_ahead._lock:
                return self.read_ahead._reading == 0

        wait_until(idle)

    def _runs(self) -> Iterator[tuple[int, Run]]:
        for epoch in count():
            for run in self.order(epoch).runs(*self._slice, self.start if epoch == 0 else 0):
                self.runs_seen += 1
                yield epoch, run


@contextmanager
def training(*arguments: Any, **options: Any) -> Iterator[Trainer]:
    trainer = Trainer(*arguments, **options)
    try:
        yield trainer
    finally:
        trainer.read_ahead.close()


def extents_of(*groups: int, lanes: int = LANES) -> Extents:
    return cut_extents([np.array([size]) for size in groups], lanes=lanes)


LARGE = extents_of(*[8] * 160)  # 160 extents of 8: ten blocks of four in each of four lanes


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@given(
    st.lists(st.integers(1, 40), min_size=4, max_size=40).filter(lambda groups: sum(groups) >= 16),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(0, 5),
    st.sampled_from([0, 20, 100, 1e9]),
    st.integers(1, 6),
    st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_every_batch_finds_its_samples(
    groups: list[int], world: int, ahead: int, samples_held: float, threads: int, part: float
) -> None:
    """A batch would wait without end for a sample that nobody reads, with some memory or number of threads."""
    extents = extents_of(*groups)
    batches = EpochOrder(extents, seed=0, epoch=0, lanes=LANES, block=4).batches(16)
    options = {"world": world, "ahead": ahead, "samples_held": samples_held, "threads": threads}
    for rank in range(min(world, 3)):
        with training(extents, NumberReader(), rank=rank, start=int(part * batches), **options) as trainer:
            for _ in range(min(12, 2 * batches)):
                trainer.step()


def test_nothing_is_read_twice_and_most_of_it_ahead() -> None:
    """Each sample would cost a request of its own, or come twice through the network."""
    reader = NumberReader()
    with training(LARGE, reader, samples_held=400) as trainer:
        taken = []
        for _ in range(trainer.batches):
            taken += trainer.step()
            trainer.settle()
    in_first_epoch = set(taken)
    assert len(in_first_epoch) == len(taken) == LARGE.samples
    times = np.bincount([row for rows, _ in reader.reads for row in rows], minlength=LARGE.samples)
    ahead = sum(len(rows) for rows, ahead in reader.reads if ahead)
    assert times.min() >= 1
    assert times.sum() == len(taken) + len(trainer.read_ahead._coming), "a sample was read twice"
    assert all(epoch == 1 for epoch, _ in trainer.read_ahead._coming), "a sample was read for a batch that had it"
    assert ahead > 0.9 * LARGE.samples
    assert all(len(rows) >= 4 for rows, ahead in reader.reads if ahead), "a range of 8 was read for a few of them"


def test_the_first_batch_comes_before_anything_else() -> None:
    """After a restart the first step would wait for gigabytes that only later steps need."""
    reader = NumberReader()
    with training(LARGE, reader, start=17, ahead=1) as trainer:
        epoch, samples = trainer.requested[0]
        for sample in samples[:-1]:
            trainer.read_ahead.take(epoch, sample)
        assert not any(ahead for _, ahead in reader.reads)
        assert trainer.read_ahead._reading == 0
        trainer.read_ahead.take(epoch, samples[-1])
        wait_until(lambda: any(ahead for _, ahead in reader.reads))


@pytest.mark.parametrize("start", [0, 1, 40, 79])
def test_the_first_batch_costs_its_own_bytes_wherever_it_lies(start: int) -> None:
    """D7: resuming late in an epoch would cost more than resuming early."""
    reader = NumberReader()
    with training(LARGE, reader, start=start, ahead=1) as trainer:
        assert trainer.batches == 80
        epoch, samples = trainer.requested[0]
        for sample in samples[:-1]:
            trainer.read_ahead.take(epoch, sample)
        wait_until(lambda: len(reader.reads) == 16)
        assert sorted(reader.reads) == sorted(([s], False) for s in samples)


@pytest.mark.parametrize("held", [40, 100, 300])
def test_memory_is_bounded(held: int) -> None:
    """Reading ahead would fill the memory of the node while the trainer takes its time."""
    reader = NumberReader()
    with training(LARGE, reader, ahead=1, samples_held=held) as trainer:
        for _ in range(150):
            trainer.step()
        in_batches = 2 * 16
        assert reader.most_held <= held + in_batches
        trainer.settle()
        assert reader.held >= held - 8 - in_batches, "memory lay idle"


def test_what_was_read_ahead_keeps_no_range() -> None:
    """The last sample of a run would keep its 16 MiB: an epoch of random order needs twice the memory so."""

    class Ranges(NumberReader):
        """Gives views of one range, as a reader of shards does."""

        def read(self, rows: np.ndarray, *, ahead: bool = False) -> dict[int, Members | SampleError]:
            found = super().read(rows, ahead=ahead)
            return {row: {"txt": memoryview(b"%d of many" % row)[: len(str(row))]} for row in found}

    with training(LARGE, Ranges(), samples_held=200) as trainer:
        for _ in range(20):
            trainer.step()
        trainer.settle()
        rows = [future.result() for future in set(trainer.read_ahead._coming.values())]
    kept = [members["txt"] for run in rows for (members,) in run.values()]  # type: ignore[index]
    assert len(kept) > 100
    assert {type(data) for data in kept} == {bytes}


def test_a_slow_trainer_does_not_pile_up_runs() -> None:
    """The rest of the epoch would be read into memory during an evaluation."""
    reader = NumberReader()
    with training(LARGE, reader, samples_held=100) as trainer:
        trainer.step()
        wait_until(lambda: reader.held >= 92)
        time.sleep(0.05)
        assert reader.most_held <= 100 + 16


def test_too_little_memory_reads_what_batches_ask_for_and_no_more() -> None:
    """Reading would stand still, or hold more than it may."""
    reader = NumberReader()
    with training(LARGE, reader, ahead=1, samples_held=1) as trainer:
        taken = [sample for _ in range(30) for sample in trainer.step()]
        requested = taken + [sample for _, samples in trainer.requested for sample in samples]
    assert reader.most_held <= 32
    assert not any(ahead for _, ahead in reader.reads)
    assert len({tuple(rows) for rows, _ in reader.reads} - {(sample,) for sample in requested}) == 0


def test_runs_that_are_mostly_taken_are_not_read() -> None:
    """After a resume late in a block, whole ranges would be read for a few samples each."""
    block = extents_of(*[8] * 128)  # 32 extents a lane
    for start, read_whole in ((4, True), (60, False)):  # of 64 batches in the only block
        reader = NumberReader()
        with training(block, reader, start=start, block=32) as trainer:
            for _ in range(4):
                trainer.step()
            first_epoch = {s for t in range(start, 64) for s in trainer.order(0).batch(t, 16).tolist()}
            done = [rows for rows, ahead in reader.reads if ahead and set(rows) <= first_epoch and len(rows) < 8]
            assert bool(done) is read_whole
            assert all(len(rows) >= 4 for rows in done)


@pytest.mark.parametrize("world", [8, 16])
def test_ranks_that_share_a_lane_do_not_search_without_end(world: int) -> None:
    """With more ranks than lanes no run may be worth its range: a rank would search epoch after epoch for one."""
    reader = NumberReader()
    with training(LARGE, reader, rank=1, world=world) as trainer:
        for _ in range(100):
            trainer.step()
        epochs_done, runs_an_epoch = 100 // trainer.batches, 160
        assert trainer.runs_seen <= (epochs_done + 2) * runs_an_epoch + 1
        assert max(trainer._orders) <= epochs_done + 2


def test_reads_for_batches_go_on_while_all_runs_are_stuck() -> None:
    """A slow part of the store would hold up batches that lie elsewhere."""
    stuck = threading.Event()

    def during(rows: list[int], ahead: bool) -> None:
        if ahead:
            assert stuck.wait(LONG)

    reader = NumberReader(during=during)
    with training(LARGE, reader, threads=4) as trainer:
        trainer.step()
        wait_until(lambda: trainer.read_ahead._reading == 3)
        in_runs = {sample for _, sample in trainer.read_ahead._coming}
        for t in range(1, 80):
            others = [s for s in trainer.order(0).batch(t, 16).tolist() if s not in in_runs]
            trainer.read_ahead.request(0, t, np.array(others))
            for sample in others:
                trainer.read_ahead.take(0, sample)
        assert not stuck.is_set()
        stuck.set()


def test_errors_come_where_the_sample_is_taken() -> None:
    """A batch would be lost to an error far ahead of it, or the error be lost."""
    reader = NumberReader()
    with training(LARGE, reader, samples_held=200) as trainer:
        trainer.step()
        trainer.settle()

        def during(rows: list[int], ahead: bool) -> None:
            raise InputError("the store is gone")

        reader.during = during
        for _ in range(7):
            trainer.step()  # the whole first block of 128 samples is there
        with pytest.raises(InputError, match="the store is gone"):
            all(trainer.step() for _ in range(trainer.batches))


def test_an_error_of_the_order_is_raised_and_closing_still_works() -> None:
    """A bug in the order would show as a run that hangs."""

    def runs() -> Iterator[tuple[int, Run]]:
        raise ArithmeticError("no such run")
        yield

    read_ahead = ReadAhead(NumberReader(), lambda samples: samples[:, None], runs(), threads=2, memory=1 << 40)
    samples = np.arange(4)
    read_ahead.request(0, 0, samples)
    with pytest.raises(ArithmeticError, match="no such run"):
        all(read_ahead.take(0, sample) for sample in samples.tolist())
    read_ahead.close()
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_a_sample_is_taken_once_and_only_if_it_was_requested() -> None:
    """A mistake in the order would wait for ever instead of failing."""
    with training(LARGE, NumberReader(), ahead=1) as trainer:
        epoch, samples = trainer.requested[0]
        trainer.read_ahead.take(epoch, samples[0])
        for wrong in ((epoch, samples[0]), (epoch + 1, samples[1]), (epoch, -1)):
            with pytest.raises(KeyError):
                trainer.read_ahead.take(*wrong)
        assert trainer.read_ahead.take(epoch, samples[1])


def test_closing_while_a_read_is_stuck_returns_when_it_ends() -> None:
    """A run that stops in an outage would never end, or leave threads that write into freed batches."""
    stuck, begun = threading.Event(), threading.Event()

    def during(rows: list[int], ahead: bool) -> None:
        begun.set()
        assert stuck.wait(LONG)

    trainer = Trainer(LARGE, NumberReader(during=during), ahead=2, threads=2)
    assert begun.wait(LONG)
    epoch, samples = trainer.requested[1]
    with ThreadPoolExecutor(2) as pool:
        takes = pool.submit(trainer.read_ahead.take, epoch, samples[-1])
        closes = pool.submit(trainer.read_ahead.close)
        with pytest.raises(CancelledError):
            takes.result(LONG)
        assert not closes.done()
        stuck.set()
        closes.result(LONG)
    assert not threads()


def test_closing_at_any_moment_leaves_no_thread() -> None:
    """A race between closing and a read that ends would leave a thread, or an error that nobody sees."""
    for n in range(100):
        trainer = Trainer(LARGE, NumberReader(), ahead=n % 3, threads=1 + n % 4, samples_held=200)
        for _ in range(n % 5):
            trainer.step()
        trainer.read_ahead.close()
        trainer.read_ahead.close()
        assert not threads()


def test_many_threads_take_at_once() -> None:
    """A race between two decoders would lose a sample, or wait for it without end."""
    reader = NumberReader()
    with training(LARGE, reader, samples_held=150, threads=6) as trainer, ThreadPoolExecutor(8) as pool:
        for _ in range(160):
            trainer.request()
            epoch, samples = trainer.requested.pop(0)
            rows = pool.map(partial(trainer.read_ahead.take, epoch), samples, timeout=LONG)
            assert [int(members["txt"]) for (members,) in rows if isinstance(members, dict)] == samples
        assert len(trainer.read_ahead._coming) <= 150
