"""Zero-shot retrieval between images and their captions. Pure functions of features.

Letters: N images, T texts, D features, k how many of the nearest are looked at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evals.zeroshot_classification import require_finite

TOP = (1, 5, 10)
CHUNK = 1024  # rows of the score matrix held at a time: 100 MB for 25,000 captions


def image_ranks(image_features: Tensor, text_features: Tensor, image_of_text: Tensor) -> Tensor:
    """(T,) int64: for every text how many images score higher than its own, 0 is a hit.

    Takes (N, D), (T, D) and (T,) int64. Of equal scores the lower image number comes first (stable sort).
    """
    numbers = torch.arange(len(image_features), device=image_features.device)
    ranks = []
    for texts, own in zip(text_features.split(CHUNK), image_of_text.split(CHUNK), strict=True):
        ranks.append(_rank_of(texts @ image_features.T, own, numbers))
    return torch.cat(ranks)


def text_ranks(image_features: Tensor, text_features: Tensor, image_of_text: Tensor) -> Tensor:
    """(N,) int64: for every image how many texts score higher than the best of its own captions, 0 is a hit.

    Arguments and ties as in `image_ranks`; raises ValueError where an image has no caption.
    """
    if len(torch.unique(image_of_text)) != len(image_features):
        raise ValueError("an image has no caption")
    numbers = torch.arange(len(text_features), device=text_features.device)
    image_numbers = torch.arange(len(image_features), device=image_features.device)
    ranks = []
    for images, wanted in zip(image_features.split(CHUNK), image_numbers.split(CHUNK), strict=True):
        scores = images @ text_features.T  # (n, T)
        others = image_of_text[None, :] != wanted[:, None]
        best = scores.masked_fill(others, -math.inf).argmax(dim=1)  # the first of equals
        ranks.append(_rank_of(scores, best, numbers))
    return torch.cat(ranks)


def _rank_of(scores: Tensor, target: Tensor, numbers: Tensor) -> Tensor:
    """(n,) rank of column `target` (n,) in each row of `scores` (n, M); `numbers` is 0 ... M - 1."""
    own = scores.gather(1, target[:, None])
    earlier = (scores == own) & (numbers < target[:, None])
    return ((scores > own) | earlier).sum(dim=1)


def retrieval_metrics(image_features: Tensor, text_features: Tensor, image_of_text: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions and their mean, all in [0, 1].

    image_retrieval_recall@k: share of texts whose image is among the k nearest images.
    text_retrieval_recall@k: share of images with at least one of their captions among the k nearest texts.
    mean_recall@k: mean of the two. Arguments as in `image_ranks`.
    """
    require_finite(image_features, text_features)
    to_image = image_ranks(image_features, text_features, image_of_text)
    to_text = text_ranks(image_features, text_features, image_of_text)
    return _named(
        {k: (to_image < k).double().mean().item() for k in TOP},
        {k: (to_text < k).double().mean().item() for k in TOP},
    )


def retrieval_chance(captions_of_image: Tensor) -> dict[str, float]:
    """What a random order scores in each figure of `retrieval_metrics`; takes (N,) int64, captions an image.

    Exact: an image with c of T captions has none among the first k with probability C(T-c, k) / C(T, k).
    """
    images, texts = len(captions_of_image), int(captions_of_image.sum())
    counts, frequency = torch.unique(captions_of_image, return_counts=True)
    pairs = list(zip(counts.tolist(), frequency.tolist(), strict=True))

    def found(k: int) -> float:
        missed = sum(n * math.comb(texts - c, k) / math.comb(texts, min(k, texts)) for c, n in pairs)
        return 1 - missed / images

    return _named({k: min(1.0, k / images) for k in TOP}, {k: found(k) for k in TOP})


def _named(image: dict[int, float], text: dict[int, float]) -> dict[str, float]:
    return (
        {f"image_retrieval_recall@{k}": image[k] for k in TOP}
        | {f"text_retrieval_recall@{k}": text[k] for k in TOP}
        | {f"mean_recall@{k}": (image[k] + text[k]) / 2 for k in TOP}
    )
