"""Outcomes of evaluations, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pineco.evals.zeroshot.outcomes import (
    ClassificationOutcomes,
    MultilabelOutcomes,
    Outcomes,
    RetrievalOutcomes,
)


def classification(images: int = 40, classes: int = 7, seed: int = 0) -> ClassificationOutcomes:
    labels = torch.arange(images) % classes
    return ClassificationOutcomes(labels, torch.randint(0, classes, (images,), generator=generator(seed)), classes)


def retrieval(images: int = 12, captions: int = 3, seed: int = 0) -> RetrievalOutcomes:
    """Every second image has a caption more."""
    owner = torch.arange(images).repeat_interleave(captions + torch.arange(images) % 2)
    return RetrievalOutcomes(
        torch.randint(0, images, owner.shape, generator=generator(seed)),
        torch.randint(0, len(owner), (images,), generator=generator(seed + 1)),
        owner,
    )


def multilabel(images: int = 20, classes: int = 4, seed: int = 0) -> MultilabelOutcomes:
    labels = torch.arange(images * classes).reshape(images, classes) % 3 == 0
    return MultilabelOutcomes(torch.randn(images, classes, generator=generator(seed)), labels)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


Make = Callable[..., Outcomes]
MAKE = pytest.mark.parametrize("make", [classification, retrieval, multilabel])
