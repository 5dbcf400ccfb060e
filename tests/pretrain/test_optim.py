"""Which parameters decay, and the learning rate at every step."""

from __future__ import annotations

import pytest

from pineco.pretrain.models.clip import build_clip
from pineco.pretrain.optim import learning_rate, parameter_groups
from pineco.pretrain.recipe.settings import OptimizerSettings, ScheduleSettings
from tests.support.ranks import TINY_CLIP


def test_only_matrices_decay() -> None:
    """Decay on biases, norms or the logit scale is not what CLIP was trained with."""
    model = build_clip(TINY_CLIP, 0)
    decayed, kept = parameter_groups(model, OptimizerSettings(weight_decay=0.3))
    names = {id(p): n for n, p in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    undecayed = {names[id(p)] for p in kept["params"]}
    assert {"logit_scale", "visual.ln_post.weight", "visual.class_embedding"} <= undecayed
    assert all(
        "weight" in names[id(p)] or "proj" in names[id(p)] or "embedding" in names[id(p)] for p in decayed["params"]
    )
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_frozen_parameters_are_left_out() -> None:
    """The optimizer would decay the text tower that perceptual initialisation does not train."""
    model = build_clip(TINY_CLIP, 0)
    model.requires_grad_(False)
    model.visual.ln_post.requires_grad_(True)
    (group,) = parameter_groups(model, OptimizerSettings())
    assert len(group["params"]) == 2


def test_warm_up_then_cosine_to_zero() -> None:
    """The peak or the end of the schedule would be elsewhere than the recipe says."""
    schedule = ScheduleSettings(warmup=4)
    rates = [learning_rate(step, 12, 1.0, schedule) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)
    assert rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_constant_schedule_stays() -> None:
    """A constant rate would decay."""
    schedule = ScheduleSettings(warmup=2, decay="constant")
    assert [learning_rate(step, 5, 0.1, schedule) for step in range(5)] == [0.05, 0.1, 0.1, 0.1, 0.1]
