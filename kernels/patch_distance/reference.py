"""Distances between patch features in plain PyTorch: the specification of the kernels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Metric = Literal["cosine", "cosine_similarity", "euclidean"]
SHORTEST = 1e-12  # a vector shorter than this counts as zero: similar to nothing, and without a gradient


def patch_distance(queries: Tensor, references: Tensor, metric: Metric) -> Tensor:
    """(B, N, D) and (B, M, D) to (B, N, M): float64 for float64, else float32, also under autocast."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        queries, references = queries.to(dtype), references.to(dtype)
        if metric == "euclidean":
            return _euclidean(queries, references)
        similarities = (_unit(queries) @ _unit(references).mT).clamp(-1, 1)
        return similarities if metric == "cosine_similarity" else 1 - similarities


def _unit(vectors: Tensor) -> Tensor:
    """x / |x| at every scale: the squares neither overflow nor vanish."""
    scale = _scale(_largest(vectors))
    vectors = vectors * scale
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.masked_fill(lengths < SHORTEST * scale, math.inf)


def _euclidean(queries: Tensor, references: Tensor) -> Tensor:
    """Sums of squared differences: |x|² + |y|² - 2xy would lose the distances of near neighbours."""
    largest = torch.cat([_largest(queries), _largest(references), queries.new_zeros(len(queries), 1, 1)], dim=1)
    scale = _scale(largest.amax(1, keepdim=True))
    return torch.cdist(queries * scale, references * scale, compute_mode="donot_use_mm_for_euclid_dist") / scale


def _largest(vectors: Tensor) -> Tensor:
    """(B, N, D) to (B, N, 1): the largest magnitude of each vector, a constant to autograd."""
    return vectors.detach().abs().amax(-1, keepdim=True)


def _scale(largest: Tensor) -> Tensor:
    """The power of two that brings `largest` close to 1: multiplying by it rounds nothing."""
    exponent = torch.frexp(largest).exponent.clamp(-100, 100)
    return torch.ldexp(torch.ones_like(largest), -exponent)
