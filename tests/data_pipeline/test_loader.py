"""The loader: the right batch at every position, from any start, for any number of ranks; no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.loader import CHUNK, DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.order import EpochOrder
from tests.support.sources import NumberReader, Numbers, NumberSource

LONG = 10.0  # seconds; far more than anything here takes
Found = list[tuple[DataPosition, Numbers]]


def make_loader(source: NumberSource, *, rank: int = 0, world: int = 1, **options: Any) -> Loader[Numbers]:
    shape = {"batch_size": 8, "lanes": 4} | {k: options.pop(k) for k in ("batch_size", "lanes") if k in options}
    how = LoaderSettings(**{"connections": 3} | options)
    return Loader(source, **shape, seed=5, rank=rank, world=world, settings=how)


def read(loader: Loader[Numbers], n: int, start: DataPosition | None = None) -> Found:
    batches = loader.iterate(start or DataPosition())
    found = list(islice(batches, n))
    close(batches)
    return found


def close(batches: Any) -> None:
    assert isinstance(batches, Generator)
    batches.close()


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(("loader", "reader"))]


def test_batches_and_positions_follow_the_order() -> None:
    """A checkpoint would store a position that is one batch off."""
    loader = make_loader(NumberSource(45, during=lambda sample: time.sleep(0.0002 * (sample % 3))))
    assert (loader.batches_per_epoch, loader.dropped) == (5, 5)
    found = read(loader, 13)
    order = [EpochOrder(loader.source.extents(4), seed=5, epoch=epoch, lanes=4) for epoch in range(3)]
    for i, (position, batch) in enumerate(found):
        epoch, t = divmod(i, 5)
        assert position == DataPosition(epoch, t + 1)
        assert batch == [(epoch, sample) for sample in order[epoch].batch(t, 8).tolist()]


LONG_RUN = read(make_loader(NumberSource(45)), 30)


@given(
    st.integers(0, 20),
    st.integers(1, 3),
    st.integers(0, 6),
    st.integers(1, 5),
    st.sampled_from([0, 3000, 20_000, 1 << 30]),
)
@settings(max_examples=50, deadline=None)
def test_going_on_from_any_position(i: int, workers: int, prefetch: int, connections: int, memory: int) -> None:
    """A resumed run would repeat or leave out samples."""
    options = {"workers": workers, "prefetch": prefetch, "connections": connections, "memory": memory}
    start = LONG_RUN[i - 1][0] if i else DataPosition()
    assert read(make_loader(NumberSource(45), **options), 8, start) == LONG_RUN[i : i + 8]


def test_the_end_of_an_epoch_is_the_start_of_the_next() -> None:
    """A run that stopped exactly between two epochs would lose or repeat one."""
    loader = make_loader(NumberSource(45))
    assert read(loader, 3, DataPosition(0, 5)) == read(loader, 3, DataPosition(1, 0))


@pytest.mark.parametrize("batch", [-1, 6, 1000])
def test_a_position_outside_the_epoch_is_refused(batch: int) -> None:
    """A run resumed with a larger batch would look for its place without end."""
    with pytest.raises(InputError, match=f"cannot go on at batch {batch}: an epoch has 5"):
        next(iter(make_loader(NumberSource(45)).iterate(DataPosition(0, batch))))
    assert not loader_threads()


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_together_read_the_same_batches(world: int) -> None:
    """The number of GPUs would change what the model learns from."""
    ranks = [read(make_loader(NumberSource(45), rank=rank, world=world), 12) for rank in range(world)]
    for i, parts in enumerate(zip(*ranks, strict=True)):
        assert {position for position, _ in parts} == {LONG_RUN[i][0]}
        assert {len(batch) for _, batch in parts} == {8 // world}
        assert [pair for _, batch in parts for pair in batch] == LONG_RUN[i][1]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("where", ["store", "decoder"])
def test_an_error_is_raised_at_its_batch(workers: int, where: str) -> None:
    """A good batch would be lost, or a bad one skipped, and threads would hang about."""
    wrong = LONG_RUN[3][1][2][1]

    def fail(rows: list[int], ahead: bool = False) -> None:
        if wrong in rows:
            raise InputError(f"{wrong} cannot be had")

    if where == "store":
        source = NumberSource(45, reader=NumberReader(during=fail))
    else:
        source = NumberSource(45, during=lambda sample: fail([sample]))
    batches = make_loader(source, workers=workers, memory=0).iterate(DataPosition())
    assert list(islice(batches, 3)) == LONG_RUN[:3]
    with pytest.raises(InputError, match="cannot be had"):
        next(batches)
    assert not loader_threads()
    assert next(batches, None) is None


def test_closing_ends_the_threads() -> None:
    """Every evaluation or restart would leave threads and open shards behind."""
    source = NumberSource(45, during=lambda sample: time.sleep(0.001))
    batches = make_loader(source, workers=3, prefetch=6).iterate(DataPosition())
    next(batches)
    assert loader_threads()
    close(batches)
    assert not loader_threads()


def test_closing_does_not_wait_for_batches_that_nobody_wants() -> None:
    """The end of a run, or an error, would first load all batches that are under way."""
    source = NumberSource(45, during=lambda sample: time.sleep(0.01))
    batches = make_loader(source, workers=1, prefetch=9).iterate(DataPosition())
    next(batches)
    close(batches)
    assert source.filled <= 4 * CHUNK  # of the ten batches that were asked for; two where the machine is idle


def test_closing_while_reads_are_stuck_returns_when_they_end() -> None:
    """A run that is stopped in an outage would hang, with decoders that wait for bytes which never come."""
    stuck, end = threading.Event(), threading.Event()

    def during(rows: list[int], ahead: bool) -> None:
        if len(rows) and rows[0] not in first:
            stuck.set()
            assert end.wait(LONG)

    first = {sample for _, sample in LONG_RUN[0][1]}
    batches = make_loader(NumberSource(45, reader=NumberReader(during=during)), workers=2).iterate(DataPosition())
    assert next(batches) == LONG_RUN[0]
    assert stuck.wait(LONG)
    closing = threading.Thread(target=lambda: close(batches))
    closing.start()
    assert closing.is_alive()
    end.set()
    closing.join(LONG)
    assert not closing.is_alive()
    assert not loader_threads()


def test_prefetch_bounds_the_memory() -> None:
    """A slow trainer would pile up batches until the memory is full."""
    source = NumberSource(45)
    batches = make_loader(source, prefetch=3).iterate(DataPosition())
    for taken in range(1, 5):
        next(batches)
        time.sleep(0.02)
        assert source.filled <= 8 * (taken + 3)
    close(batches)
    assert source.filled <= 8 * 7


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (45, {"world": 3}, "batch of 8 samples does not divide by 3 ranks"),
        (45, {"lanes": 3}, r"data\.lanes = 3 must divide it"),
        (7, {}, "7 samples do not fill one batch of 8"),
        (45, {"batch_size": 64}, "45 samples do not fill one batch of 64"),
    ],
    ids=["world", "lanes", "few", "large-batch"],
)
def test_what_cannot_work_is_refused(samples: int, options: dict[str, int], message: str) -> None:
    """Ranks would get batches of different sizes, or wait for a batch that never comes."""
    with pytest.raises(InputError, match=message):
        make_loader(NumberSource(samples), **options)


def test_a_set_of_one_batch() -> None:
    """The smallest set that works would be refused, or read without end within one epoch."""
    found = read(make_loader(NumberSource(8)), 3)
    assert [position for position, _ in found] == [DataPosition(0, 1), DataPosition(1, 1), DataPosition(2, 1)]
    assert [sorted(batch) for _, batch in found] == [[(epoch, i) for i in range(8)] for epoch in range(3)]


def test_stats_say_what_was_done() -> None:
    """The log would show another speed, waiting time or number of bad samples than the run had."""
    ready = threading.Event()
    source = NumberSource(45, reader=NumberReader(bad={LONG_RUN[1][1][0][1]}), during=lambda sample: ready.wait(LONG))
    loader = make_loader(source, prefetch=0, bad_share=1.0)
    threading.Timer(0.2, ready.set).start()
    batches = loader.iterate(DataPosition())
    next(batches)
    stats = loader.stats
    assert (stats.samples, stats.quarantined, stats.fallbacks) == (8, 0, 0)
    assert 0.1 < stats.wait_seconds < 5
    next(batches)
    source.decoded.add(fallback=True)
    stats = loader.stats
    assert (stats.samples, stats.quarantined, stats.fallbacks) == (16, 1, 1)
    assert stats.read.reads == len(source.numbers.reads) > 0
    close(batches)


def test_two_iterators_of_one_loader_do_not_meet() -> None:
    """A run that goes back to an earlier position would get batches of the one it left."""
    loader = make_loader(NumberSource(45))
    one, two = loader.iterate(DataPosition()), loader.iterate(DataPosition(1, 3))
    for i in range(6):
        assert next(one) == LONG_RUN[i]
        assert next(two) == LONG_RUN[8 + i]
    close(one)
    assert next(two) == LONG_RUN[14]
    close(two)


def test_memory_holds_what_was_asked_for() -> None:
    """The loader would fill the memory of the node though it was told how much it may take."""
    source = NumberSource(4000, groups=[50] * 80)
    batches = make_loader(source, memory=200 * 1000, prefetch=2).iterate(DataPosition())  # 200 samples
    for _ in islice(batches, 600):
        assert source.numbers.most_held <= 200 + 4 * 8
    close(batches)
    assert sum(ahead for _, ahead in source.numbers.reads) > 0
    assert source.numbers.held == 0
