"""The error rule of kernels: no more than torch loses in the same dtype."""

from __future__ import annotations

import torch


def assert_as_exact_as_torch(
    ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor, atol: float, name: str = ""
) -> None:
    """The error rule of all kernels: at most twice the largest error of torch in the same dtype, plus atol.

    exact: the same numbers computed in float64, which both errors are taken against. atol: for what torch happens to
    get right to the last digit; a few roundings of the largest exact value.
    """
    assert ours.shape == theirs.shape == exact.shape, name
    assert exact.isfinite().all(), name
    assert ours.isfinite().all(), name
    off, allowed = ((x.double() - exact).abs().max().item() if exact.numel() else 0.0 for x in (ours, theirs))
    assert off <= 2 * allowed + atol, f"{name}: off by {off:.2e}, torch by {allowed:.2e}, atol {atol:.2e}"
