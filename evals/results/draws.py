"""Bootstrap: how often each image counts in a resample, and the 95 % interval of what resamples give. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pineco.evals.results.results import Interval

DRAWS = 1000
_TAILS = (0.025, 0.975)
_STREAM = 0xB007  # keeps these draws apart from whatever else a seed is used for


class Difference(NamedTuple):
    """Metric of the first model less that of the second, and its 95 % interval, in [-1, 1]."""

    value: float
    low: float
    high: float


def image_counts(seed: int, draw: int, images: int) -> np.ndarray:
    """(images,) int64: how often each image is in this draw of as many, with replacement.

    A pure function of its arguments. Uses the raw bits, because numpy promises those for ever but lets its
    distributions change between releases. 32 of them are scaled to an image number; for a million images the
    likeliest is 0.02 % more likely than the least likely.
    """
    key, counter = np.array((seed, _STREAM), np.uint64), np.array((0, draw, 0, 0), np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw((images + 1) // 2)
    words = np.concatenate((raw >> np.uint64(32), raw & np.uint64(2**32 - 1)))[:images]
    return np.bincount((words * np.uint64(images) >> np.uint64(32)).astype(np.int64), minlength=images)


def resamples(seed: int, draws: int, images: int) -> Iterator[np.ndarray]:
    """`image_counts` of each draw, one after the other, so that memory does not grow with their number."""
    return (image_counts(seed, draw, images) for draw in range(draws))


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """95 % percentile interval: the middle of what draws gave.

    Draws without a figure (not finite: too few different images) are left out; NaN where none has one.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    low, high = np.quantile(known, _TAILS).tolist() if len(known) else (np.nan, np.nan)
    return low, high


def intervals_of(drawn: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """The interval of each figure, by name; `drawn`: all figures of each draw."""
    return {name: interval([figures[name] for figures in drawn]) for name in drawn[0]}
