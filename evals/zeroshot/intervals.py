"""How sure a figure is: 95 % percentile bootstrap over images, for one model and for the difference of two.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. An image with all its captions is one unit.
The interval speaks of other images of the same kind, not of other training runs.

In simulations it held the truth in 97 % of cases for acc1 of 200 images, 94 % for mean_per_class_recall of 1,000 images
in 20 classes, 92 % for caption recall of 150 images, and 95 % for mean_average_precision of 1,000 images. With 20
positives a class the last falls to 91 %: average precision itself is too high on so few.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.evals.results.draws import DRAWS, Difference, interval, intervals_of, resamples
from pineco.evals.zeroshot.outcomes import Outcomes, image_count, metrics, paired, statistic


def intervals(outcomes: Outcomes, *, seed: int, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """(low, high) of every metric of `outcomes`, in [0, 1]. A pure function of its arguments.

    A share of 0 or 1 has a point as its interval, since no draw of misses alone holds a hit.
    In retrieval the images and texts that are searched stay as they are; what is drawn are the queries.
    """
    of = statistic(outcomes)
    return intervals_of([of(counts) for counts in _all_counts(seed, draws, image_count(outcomes))])


def difference(a: Outcomes, b: Outcomes, metric: str, *, seed: int, draws: int = DRAWS) -> Difference:
    """`metric` of `a` less that of `b`; every draw takes the same images of both.

    Raises InputError where the two were not measured on the same data, or have no such metric.
    """
    paired(a, b)
    first, second = metrics(a), metrics(b)
    if metric not in first:
        raise InputError(f"no metric {metric!r} here; there are {', '.join(first)}")
    of_a, of_b = statistic(a), statistic(b)
    gaps = [of_a(counts)[metric] - of_b(counts)[metric] for counts in _all_counts(seed, draws, image_count(a))]
    return Difference(first[metric] - second[metric], *interval(gaps))


def _all_counts(seed: int, draws: int, images: int) -> Iterator[np.ndarray]:
    if draws < 1:
        raise ValueError(f"{draws} draws; there must be one at least")
    return resamples(seed, draws, images)
