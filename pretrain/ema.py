"""A teacher that follows its student: an exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.optim import cosine


def momentum(step: int, steps: int, begin: float, end: float) -> float:
    """Of the update after the step with this number, counted from 0: a cosine from `begin` to `end`."""
    return cosine(step, steps, begin, end)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, share: float) -> None:
    """teacher = share * teacher + (1 - share) * student, parameter by parameter; both have the same ones."""
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast.detach().to(slow.dtype), 1 - share)
