"""Zero-shot classification: text as the classifier, and its figures. Pure functions of features and labels.

Letters: N images, C classes, P templates (prompts a class), D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipeline.errors import InputError

CHUNK = 4096  # images whose scores are held at a time: 16 MB for 1000 classes


def class_prompts(classnames: tuple[str, ...], templates: tuple[str, ...]) -> list[str]:
    """C * P prompts, all templates of class 0 first."""
    return [template.replace("{c}", name) for name in classnames for template in templates]


def class_weights(prompt_features: Tensor, classes: int) -> Tensor:
    """(C, D) float32, L2-normalised: the mean over a class's templates of its normalised prompt embeddings.

    `prompt_features` is (C * P, D), L2-normalised, in the order of `class_prompts`. As in CLIP's ensemble:
    averaged as embeddings, not as probabilities.
    """
    per_class = prompt_features.reshape(classes, -1, prompt_features.shape[-1])
    return F.normalize(per_class.mean(dim=1), dim=-1)


def label_ranks(image_features: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """(N,) int64: how many classes score higher than the true one, 0 is a hit.

    Takes (N, D), (C, D) and (N,) int64. Of equal scores the lower class number comes first, the order of a
    stable sort, so an encoder that maps everything to one point scores chance and not 100 %. CLIP multiplies
    these scores by 100; that changes no rank and is left out.
    """
    require_finite(image_features, weights)
    numbers = torch.arange(len(weights), device=weights.device)
    ranks = []
    for features, chunk in zip(image_features.split(CHUNK), labels.split(CHUNK), strict=True):
        scores = features @ weights.T  # (n, C)
        own = scores.gather(1, chunk[:, None])
        earlier = (scores == own) & (numbers < chunk[:, None])
        ranks.append(((scores > own) | earlier).sum(dim=1))
    return torch.cat(ranks)


def classification_metrics(image_features: Tensor, weights: Tensor, labels: Tensor) -> dict[str, float]:
    """acc1, acc5 (with five classes or more) and mean_per_class_recall (over classes present), all in [0, 1].

    Arguments as in `label_ranks`. mean_per_class_recall is scikit-learn's balanced_accuracy_score.
    """
    ranks = label_ranks(image_features, weights, labels)
    hits = (ranks == 0).double()
    images_of = torch.bincount(labels, minlength=len(weights))
    hits_of = torch.bincount(labels, weights=hits, minlength=len(weights))
    present = images_of > 0
    metrics = {"acc1": hits.mean().item()}
    if len(weights) >= 5:
        metrics["acc5"] = (ranks < 5).double().mean().item()
    metrics["mean_per_class_recall"] = (hits_of[present] / images_of[present]).mean().item()
    return metrics


def classification_chance(classes: int) -> dict[str, float]:
    """What guessing a class at random scores in each figure of `classification_metrics`."""
    chance = {"acc1": 1 / classes, "mean_per_class_recall": 1 / classes}
    return chance | ({"acc5": 5 / classes} if classes >= 5 else {})


def require_finite(*features: Tensor) -> None:
    """Raises InputError for a NaN or infinite feature: no comparison with NaN holds, so all would be hits."""
    if not all(bool(torch.isfinite(f).all()) for f in features):
        raise InputError("the model's features hold NaN or infinity: it has diverged; evaluate an earlier checkpoint")
