"""What the kernel tests share: uninitialised memory that shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that nobody wrote is NaN, as it may be on a GPU, so that a kernel that forgets an element fails."""
    switches: Any = torch.utils.deterministic  # a module whose class, which has the switch, torch leaves untyped
    filled, before = switches.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    switches.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
    switches.fill_uninitialized_memory = filled


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
