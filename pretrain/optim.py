"""Parameter groups and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from pineco.pretrain.recipe.settings import OptimizerSettings, ScheduleSettings


def parameter_groups(module: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Trainable parameters by the factor of their learning rate (`module.lr_factor`, if it has one), two of each.

    What has two axes or more decays (so do timm's class tokens); biases, norms and scales do not. `lr_factor` and
    `decays` are what `set_rates` reads.
    """
    factor_of = getattr(module, "lr_factor", lambda name: 1.0)
    trainable = [(factor_of(name), p) for name, p in module.named_parameters() if p.requires_grad]
    groups = []
    for factor in dict.fromkeys(factor for factor, _ in trainable):
        for decays in (True, False):
            parameters = [p for f, p in trainable if f == factor and (p.ndim >= 2) == decays]
            decay = settings.weight_decay if decays else 0.0
            groups.append({"params": parameters, "weight_decay": decay, "lr_factor": factor, "decays": decays})
    return [group for group in groups if group["params"]]


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float | None) -> None:
    """Of the next update; weight_decay: None leaves it as it is."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if weight_decay is not None and group["decays"]:
            group["weight_decay"] = weight_decay


def cosine(step: int, total: int, begin: float, end: float) -> float:
    """From `begin` at step 0 to `end` at the last of `total` steps and after it."""
    return end + 0.5 * (begin - end) * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))


def learning_rate(step: int, total: int, peak: float, schedule: ScheduleSettings) -> float:
    """Of the update that takes `step` to step + 1: linear warm-up to `peak`, then cosine to 0, or constant."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    if schedule.decay == "constant":
        return peak
    done = (step - schedule.warmup) / max(1, total - schedule.warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, share: float) -> None:
    """teacher = share * teacher + (1 - share) * student, parameter by parameter; both have the same ones."""
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast.detach().to(slow.dtype), 1 - share)
