"""Settings of NeCo that cannot be are refused when the recipe is read, before a job waits in a queue."""

from __future__ import annotations

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.objectives import NecoSettings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.aligned=1", r"aligned is 1; it must lie in \[2, 32\]"),
        ("objective.aligned=40", "aligned is 40"),
        ("objective.queue=0", "queue is 0; it must be at least 1"),
        ("objective.queue=319", "queue is 319, and 320 patches enter it at a step"),
        ("objective.pushed=0", "pushed is 0"),
        ("objective.pushed=-5", "pushed is -5"),
        ("objective.student_steepness=0", "student_steepness is 0.0; it must be positive"),
        ("objective.teacher_steepness=-5", "teacher_steepness is -5.0"),
        ("objective.teacher_steepness=.nan", "teacher_steepness is nan"),
        ("objective.teacher_steepness=.inf", "teacher_steepness is inf"),
        ("objective.head_lr=-1", "head_lr is -1.0; it must be positive"),
        ("objective.head_width=0", "head_width is 0"),
        ("objective.head_hidden=0", "head_hidden is 0"),
        ("objective.head_layers=0", "head_layers is 0"),
        ("objective.momentum=1.5", r"momentum is 1.5; it must lie in \[0, 1\]"),
        ("objective.momentum_end=-3", "momentum_end is -3.0"),
        ("objective.drop_path=1.0", r"drop_path is 1.0; it must lie in \[0, 1\)"),
        ("objective.drop_path=-0.5", "drop_path is -0.5"),
        ("objective.image_size=0", "image_size is 0"),
        ("objective.trainable_blocks=0", "trainable_blocks is 0; it must be at least 1, or null for all"),
    ],
)
def test_a_setting_that_cannot_be(override: str, message: str) -> None:
    """A run would stop in the middle of torch, climb its loss, or train nothing and end well."""
    with pytest.raises(InputError, match=f"neco_tiny: objective.{message}"):
        load_recipe("neco_tiny", [override])


@pytest.mark.parametrize("override", ["objective.queue=320", "objective.aligned=32", "objective.trainable_blocks=1"])
def test_the_limits_themselves_are_allowed(override: str) -> None:
    """A bound that is off by one would refuse what works."""
    name, _, value = override.removeprefix("objective.").partition("=")
    assert getattr(load_recipe("neco_tiny", [override]).objective, name) == int(value)


def test_a_queue_that_is_not_used_may_be_small() -> None:
    """The recipes with references from the batch would need a setting that they do not read."""
    objective = load_recipe("neco_tiny", ["objective.references=batch", "objective.queue=1"]).objective
    assert isinstance(objective, NecoSettings)
    assert objective.queue == 1
