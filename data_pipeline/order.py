"""The order of samples: exact for every number of ranks, nodes and workers. Pure functions of integers.

    shards -> extents (runs of samples that are read together) -> permuted onto one line -> V equal lanes
    -> blocks of K extents, shuffled sample by sample -> batch t takes the next B / V samples of every lane

So the samples of batch t are a function of (seed, epoch, t) alone, and the state of a run is (epoch, t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.randomness import Stream, permutation

EXTENT_BYTES = 16 << 20  # one ranged GET of object storage
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


def cut_extents(sample_bytes: Sequence[np.ndarray], *, lanes: int, target: int = EXTENT_BYTES) -> Extents:
    """Cuts shards into extents of about `target` bytes, fewer where a lane would get less than 32 of them.

    sample_bytes: for every shard an (n,) int array, the bytes of each sample in file order.
    """
    total = sum(len(sizes) for sizes in sample_bytes)
    longest = max(1, total // (lanes * EXTENTS_A_LANE))
    first, number = [], 0
    for sizes in sample_bytes:
        starts = np.cumsum(sizes) - sizes
        group = starts // target
        place = np.arange(len(sizes)) - np.searchsorted(group, group)  # place within its group
        first.append(number + np.flatnonzero(place % longest == 0))
        number += len(sizes)
    begin = np.concatenate(first).astype(np.int64)
    return Extents(begin, np.diff(begin, append=total))


class EpochOrder:
    """The order of one epoch.

    lanes: V, a constant of the recipe: it decides the order, the number of ranks never does.
    Samples past the V equal lanes (fewer than V) are dropped in this epoch; `dropped` counts them with the rest of
    the last, incomplete batch.
    """

    def __init__(self, extents: Extents, *, seed: int, epoch: int, lanes: int, block: int = BLOCK_EXTENTS) -> None:
        self.seed, self.epoch, self.lanes, self.block = seed, epoch, lanes, block
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
        return np.concatenate(parts)

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
