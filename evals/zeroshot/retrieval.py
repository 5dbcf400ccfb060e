"""Zero-shot retrieval between images and their captions. Pure functions of features.

Letters: N images, T texts, D features, k how many of the nearest are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pineco.evals.zeroshot.classification import Statistic, rank_of, require_finite, require_range

TOP = (1, 5, 10)
CHUNK = 2**22  # scores held at a time: 16 MB


@dataclass(frozen=True, eq=False)
class RetrievalOutcomes:
    """What became of every text and image, in file order. Raises ValueError where the parts do not fit together."""

    image_ranks: Tensor  # (T,) int64 on the CPU, images before a text's own in [0, N); 0 is a hit
    text_ranks: Tensor  # (N,) int64 on the CPU, texts before the best of an image's own in [0, T); 0 is a hit
    image_of_text: Tensor  # (T,) int64 on the CPU, in [0, N); every image has a text

    def __post_init__(self) -> None:
        texts, images = len(self.image_of_text), len(self.text_ranks)
        shapes = [t.shape for t in (self.image_ranks, self.text_ranks, self.image_of_text)]
        if shapes != [(texts,), (images,), (texts,)] or not images or not texts:
            raise ValueError(f"ranks and image_of_text have shapes {', '.join(str(tuple(s)) for s in shapes)}")
        for values, end, what in (
            (self.image_ranks, images, "images"),
            (self.text_ranks, texts, "texts"),
            (self.image_of_text, images, "images"),
        ):
            require_range(values, end, what)
        if not captions_of_image(self).all():
            raise ValueError("an image has no caption")


def captions_of_image(outcomes: RetrievalOutcomes) -> Tensor:
    """(N,) int64: how many texts each image has."""
    return torch.bincount(outcomes.image_of_text, minlength=len(outcomes.text_ranks))


def retrieval_outcomes(image_features: Tensor, text_features: Tensor, image_of_text: Tensor) -> RetrievalOutcomes:
    """Scores (N, D) images against (T, D) texts; `image_of_text` (T,) int64 says whose caption each text is.

    Raises InputError for features that are not finite, ValueError for an image without a caption. Scores are float32.
    Of equal scores the lower number comes first, the order of a stable sort; torch.topk, which clip-benchmark uses,
    may order equal scores in another way; without ties the two agree.
    """
    require_finite(image_features, text_features)
    images, texts = image_features.float(), text_features.float()
    to_image = image_ranks(images, texts, image_of_text)
    return RetrievalOutcomes(to_image.cpu(), text_ranks(images, texts, image_of_text).cpu(), image_of_text.cpu())


def image_ranks(image_features: Tensor, text_features: Tensor, image_of_text: Tensor) -> Tensor:
    """(T,) int64: for every text how many images come before its own, 0 is a hit.

    Takes (N, D) and (T, D) float32 and (T,) int64.
    """
    numbers = torch.arange(len(image_features), device=image_features.device)
    rows = max(1, CHUNK // len(image_features))
    ranks = []
    for texts, own in zip(text_features.split(rows), image_of_text.split(rows), strict=True):
        ranks.append(rank_of(texts @ image_features.T, own, numbers))
    return torch.cat(ranks)


def text_ranks(image_features: Tensor, text_features: Tensor, image_of_text: Tensor) -> Tensor:
    """(N,) int64: for every image how many texts come before the best of its own captions, 0 is a hit.

    Arguments as in `image_ranks`; raises ValueError where an image has no caption.
    """
    numbers = torch.arange(len(text_features), device=text_features.device)
    by_image = torch.argsort(image_of_text, stable=True)
    captions = torch.bincount(image_of_text, minlength=len(image_features))
    if not captions.all():
        raise ValueError("an image has no caption")
    rows = max(1, CHUNK // len(text_features))
    ranks = []
    start = 0
    for images, chunk in zip(image_features.split(rows), captions.split(rows), strict=True):
        scores = images @ text_features.T  # (n, T)
        texts = by_image[start : start + int(chunk.sum())]  # the chunk's own captions, image by image
        start += len(texts)
        owner = torch.repeat_interleave(chunk)  # row of `scores` that each belongs to
        ranks.append(rank_of(scores, _best(scores[owner, texts], texts, owner, len(images)), numbers))
    return torch.cat(ranks)


def _best(scores: Tensor, texts: Tensor, owner: Tensor, images: int) -> Tensor:
    """(n,) the text with the highest score of each owner, of equals the lowest number; all arguments are (t,)."""
    highest = scores.new_full((images,), -math.inf).scatter_reduce(0, owner, scores, "amax")
    equal = scores == highest[owner]
    none = torch.iinfo(torch.int64).max
    return texts.new_full((images,), none).scatter_reduce(0, owner[equal], texts[equal], "amin")


def retrieval_statistic(outcomes: RetrievalOutcomes) -> Statistic:
    """Recall at 1, 5 and 10 in both directions and their mean, all in [0, 1].

    image_retrieval_recall@k: share of texts whose image is among the k nearest images.
    text_retrieval_recall@k: share of images with at least one of their captions among the k nearest texts.
    mean_recall@k: mean of the two. An image and all its captions are counted together; what they were searched in
    stays the whole data set, whatever the counts.
    """
    captions = captions_of_image(outcomes).double()
    owner, depth = outcomes.image_of_text, torch.tensor(TOP)
    found = (outcomes.image_ranks[:, None] < depth).double()  # (T, 3)
    of_texts = torch.zeros(len(captions), len(TOP), dtype=torch.float64).index_add_(0, owner, found)
    of_image = (outcomes.text_ranks[:, None] < depth).double()  # (N, 3)
    columns = torch.cat((of_texts, captions[:, None], of_image), dim=1).numpy()

    def figures(counts: np.ndarray) -> dict[str, float]:
        total = counts.astype(np.float64) @ columns
        texts = total[len(TOP)]
        return _named((total[: len(TOP)] / texts).tolist(), (total[len(TOP) + 1 :] / counts.sum()).tolist())

    return figures


def retrieval_chance(captions_of_image: Tensor) -> dict[str, float]:
    """What a random order scores in each figure of `retrieval_statistic`; takes (N,) int64, captions an image.

    Exact: an image with c of T captions has none among the first k with probability C(T-c, k) / C(T, k).
    """
    images, texts = len(captions_of_image), int(captions_of_image.sum())
    counts, frequency = torch.unique(captions_of_image, return_counts=True)
    pairs = list(zip(counts.tolist(), frequency.tolist(), strict=True))

    def found(k: int) -> float:
        missed = sum(n * math.comb(texts - c, k) / math.comb(texts, min(k, texts)) for c, n in pairs)
        return 1 - missed / images

    return _named([min(1.0, k / images) for k in TOP], [found(k) for k in TOP])


def _named(image: Sequence[float], text: Sequence[float]) -> dict[str, float]:
    """Shares in the order of TOP, by the names of the metrics."""
    return (
        {f"image_retrieval_recall@{k}": a for k, a in zip(TOP, image, strict=True)}
        | {f"text_retrieval_recall@{k}": b for k, b in zip(TOP, text, strict=True)}
        | {f"mean_recall@{k}": (a + b) / 2 for k, a, b in zip(TOP, image, text, strict=True)}
    )
