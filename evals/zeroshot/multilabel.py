"""Zero-shot classification of images that belong to several classes: mean average precision. Pure functions.

Letters: N images, C classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pineco.evals.zeroshot.classification import Statistic, require_finite

NAME = "mean_average_precision"


@dataclass(frozen=True, eq=False)
class MultilabelOutcomes:
    """Every score, in file order, since precision ranks images against each other.

    Raises ValueError where the parts do not fit together.
    """

    scores: Tensor  # (N, C) float32 on the CPU, finite
    labels: Tensor  # (N, C) bool on the CPU

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or self.scores.shape != self.labels.shape or not self.scores.numel():
            raise ValueError(f"scores {tuple(self.scores.shape)} and labels {tuple(self.labels.shape)} must pair up")
        if self.scores.dtype != torch.float32 or self.labels.dtype != torch.bool:
            raise ValueError(f"scores are {self.scores.dtype}, labels {self.labels.dtype}; want float32 and bool")
        if not bool(torch.isfinite(self.scores).all()):
            raise ValueError("a score is NaN or infinite")


def multilabel_outcomes(image_features: Tensor, weights: Tensor, labels: Tensor) -> MultilabelOutcomes:
    """Scores (N, D) images against (C, D) classes; `labels` is (N, C), bool or 0 and 1.

    Raises InputError for features that are not finite.
    """
    require_finite(image_features, weights)
    return MultilabelOutcomes((image_features.float() @ weights.float().T).cpu(), labels.bool().cpu())


def multilabel_statistic(outcomes: MultilabelOutcomes) -> Statistic:
    """mean_average_precision in [0, 1]: mean over all C classes of the mean precision at a class's positives.

    The precision at a positive is the share of positives among the images that score no lower and come no later: of
    equal scores the image that stands first in the data comes first (stable sort). A class without positives in the
    data counts as 0, as in clip-benchmark; one that only the counts leave out is left out of the mean, as in
    mean_per_class_recall, since every resample of a rare class would pull the mean down otherwise.
    """
    images, classes = outcomes.scores.shape
    order = torch.sort(outcomes.scores.T, dim=1, descending=True, stable=True).indices.numpy()
    labels = outcomes.labels.T.numpy()
    places = [np.flatnonzero(row[first]) for row, first in zip(labels, order, strict=True)]
    occupied = [number for number, place in enumerate(places) if len(place)]
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, images + 1))))

    def figures(counts: np.ndarray) -> dict[str, float]:
        total, drawn = 0.0, 0
        for number in occupied:
            precision = _average_precision(counts[order[number]], places[number], harmonic)
            if precision is not None:
                total, drawn = total + precision, drawn + 1
        return {NAME: total * len(occupied) / (drawn * classes) if drawn else 0.0}

    return figures


def _average_precision(counts: np.ndarray, places: np.ndarray, harmonic: np.ndarray) -> float | None:
    """Of one class, whose ranked images stand (N,) `counts` times each, positives at `places`; None if none is there.

    Copies of an image follow one another. The c copies of a positive behind s images, f of them negatives, have the
    precisions (s - f + i) / (s + i), i = 1 ... c; their sum is c - f * (H(s + c) - H(s)), with H(n) = 1 + ... + 1/n.
    """
    own = counts[places]
    positives = int(own.sum())
    if not positives:
        return None
    after = np.cumsum(counts)[places]
    before = after - own
    negatives = before - (np.cumsum(own) - own)
    return float((own - negatives * (harmonic[after] - harmonic[before])).sum() / positives)


def multilabel_chance(labels: Tensor) -> dict[str, float]:
    """What a random order of the images scores in mean_average_precision; takes (N, C) bool.

    Exact. A positive of p among N images stands at each place n with probability 1 / N, and each of the n - 1 images
    before it is a positive with probability (p - 1) / (N - 1). The mean over n of (1 + (n - 1)(p - 1) / (N - 1)) / n
    is H / N + (1 - H / N)(p - 1) / (N - 1), with H = 1 + ... + 1/N. A class without positives has 0.
    """
    images = len(labels)
    first = float((1 / np.arange(1, images + 1)).sum()) / images
    positives = labels.sum(dim=0).double()
    expected = first + (1 - first) * (positives - 1) / max(1, images - 1)
    return {NAME: torch.where(positives > 0, expected, 0.0).mean().item()}
