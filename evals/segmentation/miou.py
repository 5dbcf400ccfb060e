"""Mean intersection over union from exact counts of pixels, how sure it is, and the difference of two models.

Of class c: IoU = hits / (truth + predicted - hits), all summed over the images. Pixels that are void in the truth count
nowhere. The mean is over the classes that occur, which are those in the truth or in the prediction of any image
counted: one that is predicted and is nowhere in the truth has IoU 0, one that is in neither has none and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.evals.results.draws import DRAWS, Difference, interval, intervals_of, resamples

VOID = 255


@dataclass(frozen=True)
class Confusions:
    """What one model made of N images with C classes, in pixels that are not void.

    Of each image's confusion matrix the diagonal and both margins are kept: all figures follow from them, and for
    2,000 images of 150 classes they take 7 MB instead of 360.
    """

    hits: np.ndarray  # (N, C) int64: pixels of class c that were predicted as c
    truth: np.ndarray  # (N, C) int64: pixels of class c
    predicted: np.ndarray  # (N, C) int64: pixels predicted as c
    total: np.ndarray  # (C, C) int64: [truth, predicted], over all images


class ConfusionCounter:
    """Adds up images one by one."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._rows: list[np.ndarray] = []
        self._total = np.zeros((classes, classes), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """truth: (H, W), values below C or VOID; prediction: (H, W), values below C. Of one image."""
        matrix = confusion(truth, prediction, self._classes)
        self._rows.append(np.stack((np.diag(matrix), matrix.sum(1), matrix.sum(0))))
        self._total += matrix

    def result(self) -> Confusions:
        """Raises InputError where there was no image, or nothing but void."""
        if not self._total.any():
            raise InputError("no pixel of the test masks has a class: all are void, so there is nothing to measure")
        hits, truth, predicted = np.stack(self._rows, axis=1)
        return Confusions(hits, truth, predicted, self._total.copy())


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64 counts of [truth, predicted]; raises ValueError for shapes that differ and for other numbers."""
    if truth.shape != prediction.shape:
        raise ValueError(f"truth of shape {truth.shape}, prediction of {prediction.shape}")
    known = truth != VOID
    rows, columns = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    if rows.size and (max(rows.max(), columns.max()) >= classes or min(rows.min(), columns.min()) < 0):
        raise ValueError(f"a number that is none of the {classes} classes")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def class_iou(confusions: Confusions) -> np.ndarray:
    """(C,) float64 in [0, 1]; NaN for a class that does not occur."""
    return _iou(confusions, np.ones(len(confusions.hits)))


def mean_class_iou(runs: Sequence[Confusions]) -> list[float | None]:
    """C means over the runs in which the class occurs; None where it occurs in none."""
    found = np.array([class_iou(run) for run in runs])
    known = ~np.isnan(found)
    sums, counts = np.where(known, found, 0).sum(0), known.sum(0)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def metrics(confusions: Confusions) -> dict[str, float]:
    """miou and pixel_accuracy, in [0, 1]."""
    return _statistic(confusions)(np.ones(len(confusions.hits)))


def chance(confusions: Confusions) -> dict[str, float]:
    """By the names of `metrics`, what it scores to call every pixel by the commonest class of the truth."""
    pixels = confusions.truth.sum(0)
    share = float(pixels.max() / pixels.sum())
    return {"miou": share / np.count_nonzero(pixels), "pixel_accuracy": share}


def matched_miou(confusions: Confusions) -> float:
    """mIoU after predicted classes were matched to true ones, one to one, so that it is as high as can be; in [0, 1].

    A measure for clusterings, in which numbers mean nothing. open-hummingbird-eval applies it to in-context
    predictions as well, and over all C classes: one that does not occur counts as 0. It is never below `miou` where
    every class occurs, and equals it as soon as each class is best explained by its own prediction.
    """
    total = confusions.total.astype(np.float64)
    union = total.sum(1, keepdims=True) + total.sum(0, keepdims=True) - total
    iou = np.divide(total, union, out=np.zeros_like(total), where=union > 0)
    return float(np.mean([iou[row, column] for row, column in enumerate(assign(-iou))]))


def assign(cost: np.ndarray) -> list[int]:
    """The column of each row of a square (n, n) matrix, all different, with the least sum of cost.

    Shortest augmenting paths with potentials, the Hungarian method in O(n^3): Burkard, Dell'Amico and Martello,
    Assignment Problems (2009), section 4.4.
    """
    n = len(cost)
    of_row, of_column = np.zeros(n), np.zeros(n + 1)  # potentials; column n is where each search starts
    row_of = np.full(n + 1, -1)
    for row in range(n):
        row_of[n], column = row, n
        distance, came_from, done = np.full(n, np.inf), np.full(n, n), np.zeros(n + 1, bool)
        while row_of[column] >= 0:
            done[column] = True
            here = row_of[column]
            reduced = cost[here] - of_row[here] - of_column[:n]
            better = ~done[:n] & (reduced < distance)
            distance[better], came_from[better] = reduced[better], column
            nearest = int(np.argmin(np.where(done[:n], np.inf, distance)))
            step = distance[nearest]
            of_row[row_of[done]] += step
            of_column[done] -= step
            distance[~done[:n]] -= step
            column = nearest
        while column != n:  # turn the path around
            row_of[column], column = row_of[came_from[column]], int(came_from[column])
    found = np.empty(n, np.int64)
    found[row_of[:n]] = np.arange(n)
    return found.tolist()


def intervals(runs: Sequence[Confusions], *, seed: int, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval over images of each metric's mean over `runs`: the same images, other seeds.

    It speaks of other images of the same kind, not of other seeds. A pure function of its arguments.
    """
    return intervals_of(_draws(runs, seed, draws))


def difference(
    a: Sequence[Confusions], b: Sequence[Confusions], metric: str = "miou", *, seed: int, draws: int = DRAWS
) -> Difference:
    """Mean `metric` of the runs `a` less that of `b`, with its 95 % interval; every draw takes the same images of both.

    Raises InputError where the two were not measured on the same images at the same size.
    """
    for other in (*a, *b):
        if not np.array_equal(a[0].truth, other.truth):
            raise InputError(
                "two models cannot be compared: the masks differ; measure both on the same data and --size"
            )
    value = _mean([metrics(run) for run in a])[metric] - _mean([metrics(run) for run in b])[metric]
    pairs = zip(_draws(a, seed, draws), _draws(b, seed, draws), strict=True)
    return Difference(value, *interval([one[metric] - two[metric] for one, two in pairs]))


def _mean(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}


def _draws(runs: Sequence[Confusions], seed: int, draws: int) -> list[dict[str, float]]:
    """The mean over runs of each metric, for every draw of images."""
    statistics = [_statistic(run) for run in runs]
    drawn = (counts.astype(np.float64) for counts in resamples(seed, draws, len(runs[0].hits)))
    return [_mean([of(counts) for of in statistics]) for counts in drawn]


def _statistic(confusions: Confusions) -> Callable[[np.ndarray], dict[str, float]]:
    """The metrics as a function of how often each image counts, (N,) float64."""

    def of(counts: np.ndarray) -> dict[str, float]:
        iou, pixels = _iou(confusions, counts), counts @ confusions.truth.sum(1)
        if not pixels:  # a draw of nothing but images that are all void
            return {"miou": 0.0, "pixel_accuracy": 0.0}
        return {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(counts @ confusions.hits.sum(1) / pixels)}

    return of


def _iou(confusions: Confusions, counts: np.ndarray) -> np.ndarray:
    """(C,). Sums are whole numbers below 2^53, which float64 holds exactly."""
    hits, truth, predicted = (counts @ part for part in (confusions.hits, confusions.truth, confusions.predicted))
    union = truth + predicted - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)
