"""The order of samples: every sample once an epoch, the same batches for every number of ranks, well shuffled."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline import order as order_module
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.table import GROUP_BYTES
from pineco.data_pipeline.order import EXTENTS_A_LANE, EpochOrder, Extents, cut_extents, rank_slice
from pineco.data_pipeline.randomness import Stream

SAMPLE_BYTES = 60_000  # a typical image with its caption


def shards(*samples: int) -> list[np.ndarray]:
    return [np.full(n, SAMPLE_BYTES) for n in samples]


def extents_of(sample_bytes: list[np.ndarray], *, lanes: int, target: int = GROUP_BYTES) -> Extents:
    """As an index would cut shards whose samples have these bytes."""
    groups = [np.unique((np.cumsum(s) - s) // target, return_counts=True)[1] for s in sample_bytes]
    return cut_extents(groups, lanes=lanes)


def make_order(extents: Extents, lanes: int, *, seed: int = 1, epoch: int = 0, block: int = 64) -> EpochOrder:
    return EpochOrder(extents, seed=seed, epoch=epoch, lanes=lanes, block=block)


def whole_epoch(order: EpochOrder, batch_size: int, rank: int = 0, world: int = 1) -> np.ndarray:
    return np.concatenate([order.batch(t, batch_size, rank, world) for t in range(order.batches(batch_size))])


SHARD_SIZES = st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=60).map(np.array), min_size=1, max_size=8)


@given(SHARD_SIZES, st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 5000), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_every_sample_at_most_once_and_none_lost(
    sizes: list[np.ndarray], lanes: int, each: int, block: int, target: int, epoch: int
) -> None:
    """Samples would be seen twice in an epoch, or never."""
    total, batch_size = sum(map(len, sizes)), lanes * each
    order = make_order(extents_of(sizes, lanes=lanes, target=target), lanes, epoch=epoch, block=block)
    batches = order.batches(batch_size)
    seen = whole_epoch(order, batch_size) if batches else np.empty(0, np.int64)
    assert len(seen) == len(set(seen.tolist())) == batches * batch_size
    assert set(seen.tolist()) <= set(range(total))
    assert order.dropped(batch_size) == total - len(seen) < batch_size + lanes
    if order.lane_length:
        every = np.concatenate([order.lane_samples(v, 0, order.lane_length) for v in range(lanes)])
        assert len(set(every.tolist())) == len(every) == total // lanes * lanes


@given(st.integers(1, 500), st.integers(1, 12), st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_rank_slices_are_a_balanced_partition(batch_size: int, world: int, scale: int) -> None:
    """Samples between two ranks would be lost or doubled, or one rank would work more than the others."""
    slices = [rank_slice(batch_size * scale, rank, world) for rank in range(world)]
    assert slices[0][0] == 0
    assert slices[-1][1] == batch_size * scale
    assert all(before[1] == after[0] for before, after in pairwise(slices))
    lengths = [end - begin for begin, end in slices]
    assert max(lengths) - min(lengths) <= (1 if batch_size * scale % world else 0)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8, 64])
def test_ranks_together_read_the_global_batch(world: int) -> None:
    """The number of GPUs would change what a batch holds."""
    extents, lanes, batch_size = extents_of(shards(700, 90, 1500), lanes=16), 16, 64
    alone = make_order(extents, lanes)
    for t in (0, 1, alone.batches(batch_size) // 2, alone.batches(batch_size) - 1):
        parts = [make_order(extents, lanes).batch(t, batch_size, rank, world) for rank in range(world)]
        assert np.concatenate(parts).tolist() == alone.batch(t, batch_size).tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_batch_does_not_depend_on_those_read_before() -> None:
    """A resumed run would go on with other batches than the run that was never stopped."""
    extents = extents_of(shards(3000), lanes=4)
    walked = whole_epoch(make_order(extents, 4, block=8), 8).reshape(-1, 8)
    fresh = make_order(extents, 4, block=8)
    for t in np.random.default_rng(0).permutation(len(walked))[:100]:
        assert fresh.batch(int(t), 8).tolist() == walked[t].tolist()


def test_batch_size_does_not_change_the_lanes() -> None:
    """A larger batch would be another shuffle instead of the same lanes read faster."""
    extents = extents_of(shards(640), lanes=4)
    small, large = make_order(extents, 4), make_order(extents, 4)
    pairs = [np.concatenate([small.batch(t, 4)[v : v + 1] for t in (6, 7)]) for v in range(4)]
    assert large.batch(3, 8).tolist() == np.concatenate(pairs).tolist()


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 2}])
def test_epochs_and_seeds_differ(other: dict[str, int]) -> None:
    """Every epoch would show the samples in the same order."""
    extents = extents_of(shards(2000, 2000), lanes=4)
    one, two = whole_epoch(make_order(extents, 4), 8), whole_epoch(make_order(extents, 4, **other), 8)
    assert (one == two).mean() < 0.005  # an ideal permutation: 1 / 4000
    places = np.empty(4000), np.empty(4000)
    for place, samples in zip(places, (one, two), strict=True):
        place[samples] = np.arange(4000)
    assert abs(np.corrcoef(*places)[0, 1]) < 0.05  # an ideal permutation: 0 ± 0.016


def test_golden_order() -> None:
    """A change of the order would go unnoticed: no run could be resumed or repeated with the new code."""
    order = make_order(extents_of([np.full(100, 10)] * 3, lanes=4), 4, seed=7)
    assert (order.batches(8), order.dropped(8)) == (37, 4)
    assert order.batch(0, 8).tolist() == [231, 34, 183, 125, 119, 9, 211, 128]
    assert order.batch(36, 8).tolist() == [285, 42, 41, 6, 191, 65, 37, 77]
    uneven = [np.arange(1, 4000, 7) * 100, np.arange(900, 0, -1) * 64, np.full(5, 1 << 20)]
    extents = extents_of(uneven, lanes=2, target=1 << 20)
    assert (len(extents.first), extents.first[:5].tolist(), extents.first[-5:].tolist()) == (
        165,
        [0, 23, 46, 56, 78],
        [1472, 1473, 1474, 1475, 1476],
    )
    assert make_order(extents, 2, block=16, epoch=3).batch(90, 8).tolist() == [272, 271, 10, 877, 970, 986, 210, 905]


@given(SHARD_SIZES, st.integers(1, 6), st.integers(1, 5000))
@settings(max_examples=100, deadline=None)
def test_extents_are_runs_within_one_shard(sizes: list[np.ndarray], lanes: int, target: int) -> None:
    """One ranged read could not fetch an extent, or samples would belong to none."""
    extents = extents_of(sizes, lanes=lanes, target=target)
    total = sum(map(len, sizes))
    runs = [np.arange(first, first + size) for first, size in zip(extents.first, extents.size, strict=True)]
    assert np.concatenate(runs).tolist() == list(range(total))
    assert extents.size.min() >= 1
    assert extents.samples == total
    assert set(np.cumsum([0, *map(len, sizes[:-1])]).tolist()) <= set(extents.first.tolist())
    flat = np.concatenate(sizes)
    assert all(flat[run[:-1]].sum() < target for run in runs)  # the last sample may reach past it


@pytest.mark.parametrize("samples", [(64,), (1000,), (40, 3000, 7), (5000, 5000)])
def test_small_sets_give_every_lane_enough_extents(samples: tuple[int, ...]) -> None:
    """A small set would be shuffled as a handful of pieces."""
    lanes = 2
    extents = extents_of(shards(*samples), lanes=lanes)
    assert len(extents.first) >= lanes * EXTENTS_A_LANE
    order = make_order(extents, lanes)
    extent_of = np.repeat(np.arange(len(extents.first)), extents.size)
    for lane in range(lanes):
        read = extent_of[order.lane_samples(lane, 0, order.lane_length)]
        assert len(set(read.tolist())) >= EXTENTS_A_LANE


def test_large_sets_are_read_in_16_mib() -> None:
    """Object storage would be asked for many small ranges, or for more than memory holds."""
    sizes = [np.random.default_rng(i).integers(20_000, 100_000, 5000) for i in range(20)]
    extents = extents_of(sizes, lanes=2)
    length = np.add.reduceat(np.concatenate(sizes), extents.first)
    assert length.max() < GROUP_BYTES + 100_000
    assert 0.93 * GROUP_BYTES < length.mean() < GROUP_BYTES  # the last one of every shard is shorter


def test_a_late_batch_costs_as_much_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming late in an epoch of millions of samples would walk through all of them."""
    lengths: list[int] = []

    def counting(n: int, *arguments: Any) -> np.ndarray:
        lengths.append(n)
        return permutation(n, *arguments)

    permutation = order_module.permutation
    monkeypatch.setattr(order_module, "permutation", counting)
    lanes, batch_size, extents = 8, 64, extents_of(shards(*[10_000] * 100), lanes=8)
    order = make_order(extents, lanes)
    assert lengths == [len(extents.first)]
    lengths.clear()
    order.batch(order.batches(batch_size) - 1, batch_size)
    assert len(lengths) <= 2 * lanes  # a batch that lies across two blocks
    assert max(lengths) <= 64 * extents.size.max()
    lengths.clear()
    order.batch(order.batches(batch_size) // 2, batch_size, rank=3, world=8)
    assert len(lengths) <= 2  # a rank shuffles its own lane only


def test_each_block_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk through the epoch would shuffle the same block for every batch."""
    calls: Counter[tuple[int, ...]] = Counter()

    def counting(n: int, seed: int, stream: Stream, *numbers: int) -> np.ndarray:
        calls[seed, stream, *numbers] += 1
        return permutation(n, seed, stream, *numbers)

    permutation = order_module.permutation
    monkeypatch.setattr(order_module, "permutation", counting)
    order = make_order(extents_of(shards(20_000), lanes=4), 4, block=8)
    whole_epoch(order, 16)
    assert len(calls) == 1 + 4 * 5  # the extents, and five blocks of each lane
    assert set(calls.values()) == {1}


@pytest.mark.parametrize(
    ("sizes", "lanes"),
    [
        (shards(*[1000] * 20), 16),  # a small set
        (shards(*[1000] * 200), 8),  # 100 extents of 16 MiB a lane
        ([np.random.default_rng(n).integers(20_000, 100_000, n) for n in range(500, 1500, 5)], 8),
    ],
    ids=["small", "large", "uneven"],
)
def test_samples_read_together_are_far_apart_on_disk(sizes: list[np.ndarray], lanes: int) -> None:
    """Batches would be made of neighbours in the shards, which often are alike."""
    extents = extents_of(sizes, lanes=lanes)
    samples = whole_epoch(make_order(extents, lanes), 8 * lanes)
    ideal = extents.samples / 3  # mean |difference| of two places drawn at random
    # 1 / 64 of the pairs lie in one extent, since a block of 64 extents is shuffled as a whole: 1.6 % less
    assert abs(np.abs(np.diff(samples)).mean() / ideal - 1) < 0.025


def test_neighbours_of_a_small_set_are_read_far_apart() -> None:
    """The samples of one extent would all come early or all late in the epoch."""
    extents = extents_of(shards(*[1000] * 20), lanes=16)
    samples = whole_epoch(make_order(extents, 16), 64)
    place = np.full(extents.samples, np.nan)
    place[samples] = np.arange(len(samples))
    assert abs(np.nanmean(np.abs(np.diff(place))) / (len(samples) / 3) - 1) < 0.02


def test_every_part_of_a_small_epoch_shows_all_shards_alike() -> None:
    """The data would drift from shard to shard in the course of an epoch."""
    samples = whole_epoch(make_order(extents_of(shards(*[1000] * 20), lanes=16), 16), 64)
    counts = [np.bincount(part // 1000, minlength=20) for part in np.array_split(samples, 10)]
    expected = len(samples) / 200
    assert sum(((c - expected) ** 2).sum() / expected for c in counts) < 222  # 171 degrees of freedom, p = 0.005


def test_lanes_must_divide_the_batch() -> None:
    """Lanes would be read at different speeds, and some would end before the others."""
    order = make_order(extents_of(shards(100), lanes=4), 4)
    with pytest.raises(InputError, match=r"data\.lanes = 4 must divide it"):
        order.batches(6)


@pytest.mark.parametrize("t", [-1, 12, 1000])
def test_there_is_no_batch_outside_the_epoch(t: int) -> None:
    """A batch past the end would hold samples of other lanes, or be looked for without end."""
    order = make_order(extents_of(shards(100), lanes=4), 4)
    assert order.batches(8) == 12
    with pytest.raises(AssertionError):
        order.batch(t, 8)


@given(
    SHARD_SIZES,
    st.sampled_from([1, 2, 3, 4]),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5000),
    st.sampled_from([1, 2, 3, 4, 6, 8]),
    st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_runs_name_what_the_batches_take(
    sizes: list[np.ndarray], lanes: int, each: int, block: int, target: int, world: int, part: float
) -> None:
    """Reading ahead would fetch what no batch of this rank takes, or leave samples to be fetched one by one."""
    batch_size = lanes * each
    order = make_order(extents_of(sizes, lanes=lanes, target=target), lanes, block=block)
    batches = order.batches(batch_size)
    start = int(part * batches)
    for rank in range(world):
        taken = [(int(s), t) for t in range(start, batches) for s in order.batch(t, batch_size, rank, world)]
        runs = list(order.runs(batch_size, rank, world, start))
        named = [pair for run in runs for pair in zip(run.samples.tolist(), run.batches.tolist(), strict=True)]
        assert sorted(named) == sorted(taken)
        extents = order._extents
        for run in runs:
            extent = np.searchsorted(extents.first, run.samples, side="right") - 1
            assert set(extent.tolist()) == {extent[0]}
            assert run.whole == extents.size[extent[0]] >= len(run.samples) >= 1


def test_runs_come_when_they_are_needed() -> None:
    """Memory would hold what is read late while the next batch waits."""
    order = make_order(extents_of(shards(20_000), lanes=4), 4, block=8)
    runs = list(order.runs(64))
    behind = 0
    for run in runs:
        assert run.batches.max() >= behind - 1, "a run that was needed before those that came earlier"
        behind = max(behind, int(run.batches.min()))
