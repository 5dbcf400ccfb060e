"""What the loop knows of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pretrain.export import ExportFormat


@dataclass(frozen=True)
class StepOutput:
    loss: Tensor  # scalar, mean over this rank's micro-batch
    metrics: Mapping[str, Tensor] = field(default_factory=dict)  # scalars, detached


@dataclass(frozen=True)
class Bound:
    """A parameter that is clamped into [low, high] after every step."""

    parameter: nn.Parameter
    low: float
    high: float


class Objective(nn.Module):
    """Owns its models, maps a batch to a StepOutput.

    `self.model` is what a checkpoint exports; every other tensor of the module is training state.
    """

    model: Any  # an open_clip CLIP, or a backbone of timm; nn.Module would hide its methods from the type checker
    export: ExportFormat  # the files that its checkpoint exports

    def forward(self, batch: Any) -> StepOutput:
        raise TypeError(f"{type(self).__name__} must define forward")

    def prepare(self, steps: int) -> None:
        """Called once before the first step; steps: of the whole run."""

    def adopt_weights(self) -> None:
        """Called when the model was given other weights than it was made with, before a run starts from them."""

    def lr_factor(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by."""
        return 1.0

    def bounds(self) -> list[Bound]:
        return []

    def after_step(self, step: int) -> None:
        """Called when the parameters have been updated for the `step`-th time, counted from 0."""
