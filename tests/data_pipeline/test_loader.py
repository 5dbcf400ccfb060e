"""The loader: the right batch at every position, from any start, for any number of ranks; no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.loader import DataPosition, Loader
from data_pipeline.order import EpochOrder, Extents, cut_extents

Loaded = tuple[int, list[int]]  # epoch, sample numbers


class NumberSource:
    """Loads the numbers it is asked for; some samples are bad, some batches slow."""

    def __init__(self, samples: int, bad: int | None = None, slow: bool = False) -> None:
        self.samples, self.bad, self.slow = samples, bad, slow
        self.loads = 0

    def extents(self, lanes: int) -> Extents:
        return cut_extents([np.full(self.samples, 1000)], lanes=lanes)

    def load(self, samples: np.ndarray, epoch: int) -> Loaded:
        self.loads += 1
        if self.slow:
            time.sleep(0.001 * (samples[0] % 3))
        if self.bad in samples:
            raise InputError(f"sample {self.bad} is bad")
        return epoch, samples.tolist()


def make_loader(source: NumberSource, **options: Any) -> Loader[Loaded]:
    return Loader(source, **{"batch_size": 8, "lanes": 4, "seed": 5} | options)


def read(loader: Loader[Loaded], n: int, start: DataPosition | None = None) -> list[tuple[DataPosition, Loaded]]:
    batches = loader.iterate(start or DataPosition())
    found = list(islice(batches, n))
    close(batches)
    return found


def close(batches: Any) -> None:
    assert isinstance(batches, Generator)
    batches.close()


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_batches_and_positions_follow_the_order() -> None:
    """A checkpoint would store a position that is one batch off."""
    loader = make_loader(NumberSource(45, slow=True))
    assert (loader.batches_per_epoch, loader.dropped) == (5, 5)
    found = read(loader, 13)
    order = [EpochOrder(loader.source.extents(4), seed=5, epoch=epoch, lanes=4) for epoch in range(3)]
    for i, (position, batch) in enumerate(found):
        epoch, t = divmod(i, 5)
        assert position == DataPosition(epoch, t + 1)
        assert batch == (epoch, order[epoch].batch(t, 8).tolist())


LONG = read(make_loader(NumberSource(45)), 30)


@given(st.integers(0, 20), st.integers(1, 3), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_going_on_from_any_position(i: int, workers: int, prefetch: int) -> None:
    """A resumed run would repeat or leave out samples."""
    loader = make_loader(NumberSource(45), workers=workers, prefetch=prefetch)
    start = LONG[i - 1][0] if i else DataPosition()
    assert read(loader, 8, start) == LONG[i : i + 8]


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
        assert {position for position, _ in parts} == {LONG[i][0]}
        assert {len(samples) for _, (_, samples) in parts} == {8 // world}
        assert [s for _, (_, samples) in parts for s in samples] == LONG[i][1][1]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_is_raised_at_its_batch(workers: int) -> None:
    """A good batch would be lost, or a bad one skipped, and threads would hang about."""
    _, (_, samples) = LONG[3]
    batches = make_loader(NumberSource(45, bad=samples[2]), workers=workers).iterate(DataPosition())
    assert list(islice(batches, 3)) == LONG[:3]
    with pytest.raises(InputError, match="is bad"):
        next(batches)
    assert not loader_threads()
    assert next(batches, None) is None


def test_closing_ends_the_threads() -> None:
    """Every evaluation or restart would leave threads and open shards behind."""
    batches = make_loader(NumberSource(45, slow=True), workers=3, prefetch=6).iterate(DataPosition())
    next(batches)
    assert loader_threads()
    close(batches)
    assert not loader_threads()


def test_closing_does_not_wait_for_batches_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run, or an error, would first load all batches that are under way."""
    source = NumberSource(45)
    load = source.load
    monkeypatch.setattr(source, "load", lambda *arguments: (time.sleep(0.05), load(*arguments))[1])
    batches = make_loader(source, workers=1, prefetch=9).iterate(DataPosition())
    next(batches)
    close(batches)
    assert source.loads <= 5  # of the ten that were asked for; two where the machine is idle


def test_prefetch_bounds_the_memory() -> None:
    """A slow trainer would pile up batches until the memory is full."""
    source = NumberSource(45)
    batches = make_loader(source, prefetch=3).iterate(DataPosition())
    for taken in range(1, 5):
        next(batches)
        time.sleep(0.02)
        assert source.loads <= taken + 3
    close(batches)
    assert source.loads <= 7


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
    assert [sorted(samples) for _, (_, samples) in found] == [list(range(8))] * 3
