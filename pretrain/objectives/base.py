"""What the loop knows of an objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pineco.pretrain.models.export import Exported, ExportFormat

MODEL = "model."  # before the names of the exported model's tensors


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


def logit_scale_bound(clip: Any, largest: float) -> Bound:
    """exp(logit_scale) stays in [1, largest]: past 100 training is known to become unstable (Radford et al., 2.5)."""
    return Bound(clip.logit_scale, 0.0, math.log(largest))


class Objective(nn.Module):
    """Owns its models, maps a batch to a StepOutput.

    `self.model` is what a checkpoint exports; every other tensor of the module is training state. Where what is
    exported is made from the model, an objective says so by `exported`, `kept`, `restore` and `adopt` of its own.
    """

    model: Any  # an open_clip CLIP, or a backbone of timm; nn.Module would hide its methods from the type checker
    export: ExportFormat  # the files that its checkpoint exports

    def forward(self, batch: Any) -> StepOutput:
        raise TypeError(f"{type(self).__name__} must define forward")

    def prepare(self, steps: int) -> None:
        """Called once before the first step; steps: of the whole run."""

    def exported(self) -> Exported:
        """What its checkpoint exports, for others to read."""
        return {
            self.export.config_file: self.export.config.encode(),
            self.export.weights_file: dict(self.model.state_dict()),
        }

    def kept(self) -> dict[str, Tensor]:
        """What is needed besides the exported weights to go on, without the optimizer's part."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(MODEL)}

    def restore(self, weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        """From a checkpoint of the same run. Raises RuntimeError where tensors do not fit."""
        self.load_state_dict({**kept, **{MODEL + name: tensor for name, tensor in weights.items()}}, strict=True)

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Starts from the exported model of another run. Raises RuntimeError where tensors do not fit."""
        self.model.load_state_dict(weights, strict=True)

    def lr_factor(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by."""
        return 1.0

    def bounds(self) -> list[Bound]:
        return []

    def after_step(self, step: int) -> None:
        """Called when the parameters have been updated for the `step`-th time, counted from 0."""
