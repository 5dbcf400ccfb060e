"""Soft sorting in plain PyTorch, differentiated by autograd: the specification of everything else here."""

from __future__ import annotations

import torch
from torch import Tensor

from pineco.kernels.soft_sort.networks import Wiring
from pineco.kernels.soft_sort.relaxation import Relaxation


def soft_sort(values: Tensor, wiring: Wiring, relaxation: Relaxation) -> tuple[Tensor, Tensor]:
    """values (rows, n) to sorted (rows, n) and permutation (rows, n, n), with sorted = values @ permutation.

    Every original position starts as a unit vector over the wires, and every layer mixes the wires of values and
    vectors alike. Holds several copies of the permutation for each layer under autograd: see chunked.py.
    """
    rows, n = values.shape
    permutation = torch.eye(n, dtype=values.dtype, device=values.device).expand(rows, n, n)
    for partner, side in zip(*wiring, strict=True):
        keep = relaxation.keep(side.to(values.dtype) * (values - values[:, partner]))
        values = torch.lerp(values[:, partner], values, keep)
        permutation = torch.lerp(permutation[:, :, partner], permutation, keep[:, None, :])
    return values, permutation
