"""NeCo's loss in plain PyTorch, differentiated by autograd: the specification of everything else here."""

from __future__ import annotations

import torch
from torch import Tensor

from pineco.kernels.patch_distance.reference import patch_distance
from pineco.kernels.soft_sort.networks import Network, wiring
from pineco.kernels.soft_sort.reference import soft_sort
from pineco.kernels.soft_sort.relaxation import Relaxation

SMALLEST = torch.finfo(torch.float32).tiny  # logarithms are of this at least, which gets no gradient; in float64, too


def neco_loss(
    student: Tensor, teacher: Tensor, references: Tensor, weights: Tensor | None,
    network: Network, student_relaxation: Relaxation, teacher_relaxation: Relaxation,
) -> Tensor:  # fmt: skip
    """(B, N, D), (B, N, D) and (B, M, D) to a scalar: cross-entropies of positions, averaged over patches.

    The mean over patches is weighted by weights, (B, N) or None for equal ones; 0 where all are 0.
    """
    mine = _permutation(student, references.detach(), network, student_relaxation)
    with torch.no_grad():
        target = _permutation(teacher, references, network, teacher_relaxation)
    losses = -(target * mine.clamp(min=SMALLEST).log()).sum(-1).mean(-1)
    weights = torch.ones_like(losses) if weights is None else weights.to(losses.dtype).reshape(losses.shape)
    return (weights * losses).sum() / weights.sum().clamp(min=SMALLEST)


def _permutation(vectors: Tensor, references: Tensor, network: Network, relaxation: Relaxation) -> Tensor:
    """(B, N, D) and (B, M, D) to (B · N, M references, M positions)."""
    m = references.shape[1]
    similarities = patch_distance(vectors, references, "cosine_similarity").reshape(-1, m)
    return soft_sort(similarities, wiring(network, m, vectors.device), relaxation)[1]
