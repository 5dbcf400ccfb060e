"""Parameter groups and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from pretrain.recipe import OptimizerSettings, ScheduleSettings


def parameter_groups(module: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; biases, norms, class tokens and scales do not."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, total: int, peak: float, schedule: ScheduleSettings) -> float:
    """Of the update that takes `step` to step + 1: linear warm-up to `peak`, then cosine to 0, or constant."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    if schedule.decay == "constant":
        return peak
    done = (step - schedule.warmup) / max(1, total - schedule.warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
