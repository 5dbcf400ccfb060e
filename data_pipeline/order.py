"""The order of samples: exact for every number of ranks, nodes and workers. Pure functions of integers.

    shards -> extents (runs of samples that are read together) -> permuted onto one line -> V equal lanes
    -> blocks of K extents, shuffled sample by sample -> batch t takes the next B / V samples of every lane

So the samples of batch t are a function of (seed, epoch, t) alone, and the state of a run is (epoch, t).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heapreplace
from itertools import pairwise

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.randomness import Stream, permutation

EXTENTS_A_LANE = 32  # at least, so that a small set is shuffled as well as a large one
BLOCK_EXTENTS = 64


@dataclass(frozen=True)
class Extents:
    """Contiguous runs of samples within one shard. E is their number."""

    first: np.ndarray  # (E,) int64: global number of the first sample
    size: np.ndarray  # (E,) int64: samples, >= 1

    @property
    def samples(self) -> int:
        return int(self.size.sum())


def cut_extents(groups: Sequence[np.ndarray], *, lanes: int) -> Extents:
    """The groups of the shards as extents; shorter ones where a lane would get less than 32 of them.

    groups: for every shard an (n,) int array, the samples of each stretch of it that one ranged GET reads.
    """
    sizes = np.concatenate([*groups, np.empty(0, np.int64)]).astype(np.int64)
    begin = np.cumsum(sizes) - sizes
    longest = max(1, int(sizes.sum()) // (lanes * EXTENTS_A_LANE))
    pieces = -(-sizes // longest)  # (G,) extents of each group
    place = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # within its group
    first = np.repeat(begin, pieces) + place * longest
    return Extents(first, np.diff(first, append=sizes.sum()))


@dataclass(frozen=True)
class Run:
    """What one rank still takes of one extent within one block of a lane; the unit of reading ahead. n samples."""

    samples: np.ndarray  # (n,) int64, increasing
    batches: np.ndarray  # (n,) int64: the batch that each belongs to
    whole: int  # samples of the extent, whoever takes them


class EpochOrder:
    """The order of one epoch.

    lanes: V, a constant of the recipe: it decides the order, the number of ranks never does.
    Samples past the V equal lanes (fewer than V) are dropped in this epoch; `dropped` counts them with the rest of
    the last, incomplete batch.
    """

    def __init__(self, extents: Extents, *, seed: int, epoch: int, lanes: int, block: int = BLOCK_EXTENTS) -> None:
        self.seed, self.epoch, self.lanes, self.block = seed, epoch, lanes, block
        self._extents = extents
        line = permutation(len(extents.first), seed, Stream.EXTENTS, epoch)
        self._first = extents.first[line]
        self._start = np.concatenate(([0], np.cumsum(extents.size[line])))  # (E + 1,) places on the line
        self.lane_length = int(self._start[-1]) // lanes
        self._block_samples = lru_cache(maxsize=2 * lanes)(self._shuffle_block)

    def batches(self, batch_size: int) -> int:
        """T, the number of whole batches of B = `batch_size` samples; V must divide B."""
        return self.lane_length // _per_lane(batch_size, self.lanes)

    def dropped(self, batch_size: int) -> int:
        return int(self._start[-1]) - self.batches(batch_size) * batch_size

    def batch(self, t: int, batch_size: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """Global sample numbers of one rank's part of batch t, int64; over all ranks (B,).

        Sample j comes from lane j // (B / V), so that a rank's contiguous part touches its own lanes only.
        """
        assert 0 <= t < self.batches(batch_size), t
        each = _per_lane(batch_size, self.lanes)
        begin, end = rank_slice(batch_size, rank, world)
        parts = []
        for lane in range(begin // each, -(-end // each)):
            low, high = max(begin - lane * each, 0), min(end - lane * each, each)
            parts.append(self.lane_samples(lane, t * each + low, t * each + high))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def lane_samples(self, lane: int, begin: int, end: int) -> np.ndarray:
        """Samples at places begin..end-1 of a lane, (end - begin,) int64."""
        parts = []
        while begin < end:
            block, block_begin, block_end = self._block_at(lane, begin)
            samples = self._block_samples(lane, block, block_begin, block_end)
            parts.append(samples[begin - block_begin : end - block_begin])
            begin = min(end, block_end)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def runs(self, batch_size: int, rank: int = 0, world: int = 1, start: int = 0) -> Iterator[Run]:
        """What a rank reads from batch `start` to the end of the epoch, in the order in which it is first needed."""
        each, end = _per_lane(batch_size, self.lanes), self.batches(batch_size) * _per_lane(batch_size, self.lanes)
        begin, stop = rank_slice(batch_size, rank, world)
        lanes = range(begin // each, -(-stop // each))
        heads = [(start * each, lane) for lane in lanes]  # the place from which a lane was not given out yet
        heapify(heads)
        while heads and heads[0][0] < end:
            place, lane = heads[0]
            block, block_begin, block_end = self._block_at(lane, place)
            samples = self._block_samples(lane, block, block_begin, block_end)
            places = np.arange(block_begin, block_end)
            within = places % each + lane * each  # place in the batch
            mine = (places >= start * each) & (places < end) & (within >= begin) & (within < stop)
            yield from self._runs_of(samples[mine], places[mine] // each)
            heapreplace(heads, (block_end, lane))

    def _runs_of(self, samples: np.ndarray, batches: np.ndarray) -> Iterator[Run]:
        line = np.argsort(samples)
        samples, batches = samples[line], batches[line]
        extent = np.searchsorted(self._extents.first, samples, side="right") - 1
        borders = np.flatnonzero(np.diff(extent, prepend=-1, append=-1))  # where one begins, and the end
        for low, high in pairwise(borders):
            yield Run(samples[low:high], batches[low:high], int(self._extents.size[extent[low]]))

    def _block_at(self, lane: int, place: int) -> tuple[int, int, int]:
        """(number, first place, end place) of the block that holds a place of a lane, in places of the lane."""
        origin = lane * self.lane_length
        first_extent = self._extent_at(origin)
        block = (self._extent_at(origin + place) - first_extent) // self.block
        low = first_extent + block * self.block
        high = min(low + self.block, len(self._first))
        return block, max(int(self._start[low]) - origin, 0), min(int(self._start[high]) - origin, self.lane_length)

    def _extent_at(self, place: int) -> int:
        return int(np.searchsorted(self._start, place, side="right")) - 1

    def _shuffle_block(self, lane: int, block: int, begin: int, end: int) -> np.ndarray:
        places = np.arange(begin, end) + lane * self.lane_length
        extent = np.searchsorted(self._start, places, side="right") - 1
        samples = self._first[extent] + places - self._start[extent]
        return samples[permutation(len(samples), self.seed, Stream.BLOCK, self.epoch, lane, block)]


def rank_slice(batch_size: int, rank: int, world: int) -> tuple[int, int]:
    """[begin, end) of a rank's part of a batch; parts differ by one sample at most."""
    return rank * batch_size // world, (rank + 1) * batch_size // world


def _per_lane(batch_size: int, lanes: int) -> int:
    if batch_size % lanes:
        raise InputError(f"batch of {batch_size} samples: data.lanes = {lanes} must divide it")
    return batch_size // lanes
