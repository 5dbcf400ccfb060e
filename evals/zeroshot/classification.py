"""Zero-shot classification: text as the classifier, and its figures. Pure functions of features and labels.

Letters: N images, C classes, P prompts of all classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pineco.data_pipeline.errors import InputError

CHUNK = 2**22  # scores held at a time: 16 MB

# Figures of a data set that holds image i counts[i] times: (N,) integers whose sum is N -> share by metric.
Statistic = Callable[[np.ndarray], dict[str, float]]


@dataclass(frozen=True, eq=False)
class ClassificationOutcomes:
    """What became of every image, in file order. Raises ValueError where the parts do not fit together."""

    labels: Tensor  # (N,) int64 on the CPU, true class in [0, C)
    ranks: Tensor  # (N,) int64 on the CPU, classes before the true one in [0, C); 0 is a hit
    classes: int  # C

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.shape != self.ranks.shape or not len(self.labels):
            raise ValueError(f"labels {tuple(self.labels.shape)} and ranks {tuple(self.ranks.shape)} must pair up")
        for values in (self.labels, self.ranks):
            require_range(values, self.classes, "classes")


def class_prompts(classnames: Sequence[str], templates: Sequence[str]) -> list[str]:
    """A prompt for every class and template, all templates of class 0 first."""
    return [template.replace("{c}", name) for name in classnames for template in templates]


def class_weights(prompt_features: Tensor, counts: Sequence[int]) -> Tensor:
    """(C, D) float32, L2-normalised: the mean over a class's prompts of their normalised embeddings.

    `prompt_features` is (P, D), L2-normalised, class by class; `counts` says how many prompts each class has,
    which may differ from class to class. As in CLIP's ensemble: averaged as embeddings, not as probabilities.
    Raises ValueError where counts and features do not fit together.
    """
    sizes = torch.tensor(counts)
    if sum(counts) != len(prompt_features) or min(counts) < 1:
        raise ValueError(f"{len(prompt_features)} prompts for classes that have {min(counts)} to {max(counts)}")
    first = sizes.cumsum(0) - sizes
    weights = prompt_features.new_empty((len(sizes), prompt_features.shape[1]), dtype=torch.float32)
    for size in torch.unique(sizes).tolist():  # one step where all classes share their templates
        classes = (sizes == size).nonzero().flatten()
        rows = first[classes, None] + torch.arange(size)
        weights[classes] = prompt_features[rows].float().mean(dim=1)
    return F.normalize(weights, dim=-1)


def classification_outcomes(image_features: Tensor, weights: Tensor, labels: Tensor) -> ClassificationOutcomes:
    """Scores (N, D) images against (C, D) classes; `labels` is (N,) int64.

    Raises InputError for features that are not finite.
    """
    require_finite(image_features, weights)
    return ClassificationOutcomes(labels.cpu(), label_ranks(image_features, weights, labels).cpu(), len(weights))


def label_ranks(image_features: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """(N,) int64: how many classes score higher than the true one, 0 is a hit.

    Takes (N, D), (C, D) and (N,) int64. Scores are float32. Of equal scores the lower class number comes first, the
    order of a stable sort, so an encoder that maps everything to one point scores chance and not 100 %. torch.topk,
    which clip-benchmark uses, may order equal scores in another way; without ties the two agree. CLIP multiplies
    these scores by 100; that changes no rank and is left out.
    """
    numbers = torch.arange(len(weights), device=weights.device)
    rows = max(1, CHUNK // len(weights))
    ranks = []
    for features, chunk in zip(image_features.float().split(rows), labels.split(rows), strict=True):
        ranks.append(rank_of(features @ weights.float().T, chunk, numbers))
    return torch.cat(ranks)


def rank_of(scores: Tensor, target: Tensor, numbers: Tensor) -> Tensor:
    """(n,) rank of column `target` (n,) in each row of `scores` (n, M); `numbers` is 0 ... M - 1."""
    own = scores.gather(1, target[:, None])
    earlier = (scores == own) & (numbers < target[:, None])
    return ((scores > own) | earlier).sum(dim=1)


def classification_statistic(outcomes: ClassificationOutcomes) -> Statistic:
    """acc1, acc5 (with five classes or more) and mean_per_class_recall (over classes present), all in [0, 1].

    mean_per_class_recall is scikit-learn's balanced_accuracy_score.
    """
    ranks, classes = outcomes.ranks.numpy(), outcomes.classes
    # All that counts of an image is its class and one of three fates: a hit, among the first five, or neither.
    cell = 3 * outcomes.labels.numpy() + (ranks >= 1) + (ranks >= 5)

    def figures(counts: np.ndarray) -> dict[str, float]:
        table = np.bincount(cell, weights=counts, minlength=3 * classes).reshape(classes, 3)
        hits, images_of = table[:, 0], table.sum(axis=1)
        present = images_of > 0
        shares = {"acc1": hits.sum() / images_of.sum()}
        if classes >= 5:
            shares["acc5"] = table[:, :2].sum() / images_of.sum()
        shares["mean_per_class_recall"] = np.mean(hits[present] / images_of[present])
        return {name: float(share) for name, share in shares.items()}

    return figures


def classification_chance(classes: int) -> dict[str, float]:
    """What guessing a class at random scores in each figure of `classification_statistic`."""
    acc5 = {"acc5": 5 / classes} if classes >= 5 else {}
    return {"acc1": 1 / classes} | acc5 | {"mean_per_class_recall": 1 / classes}


def require_finite(*features: Tensor) -> None:
    """Raises InputError for a NaN or infinite feature: no comparison with NaN holds, so all would be hits."""
    if not all(bool(torch.isfinite(f).all()) for f in features):
        raise InputError("the model's features hold NaN or infinity: it has diverged; evaluate an earlier checkpoint")


def require_range(values: Tensor, end: int, what: str) -> None:
    """Raises ValueError unless all of `values` are int64 in [0, end)."""
    if values.dtype != torch.int64 or not 0 <= int(values.min()) <= int(values.max()) < end:
        raise ValueError(f"{values.dtype} from {values.min()} to {values.max()}, but there are {end} {what}")
