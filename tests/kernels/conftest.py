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
