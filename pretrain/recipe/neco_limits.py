"""What NeCo's settings may be. Imports no torch, so that a login node can refuse a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pineco.pretrain.recipe.settings import NecoSettings, Recipe

MOST_ALIGNED = 32  # 1,024 patches: as many as the sorting kernels take


def neco_problems(recipe: Recipe) -> Iterator[str]:
    """What is wrong with a recipe of this objective, one line each."""
    settings: NecoSettings = recipe.objective
    yield from _out_of_range(settings)
    pushed = settings.pushed * recipe.data.batch_size // recipe.data.accumulation
    if settings.references == "queue" and settings.queue < pushed:
        told = f"objective.queue is {settings.queue}, and {pushed} patches enter it at a step"
        yield f"{told}; it must hold them, or lower objective.pushed"


def _out_of_range(settings: NecoSettings) -> Iterator[str]:
    for name in ("image_size", "head_layers", "head_hidden", "head_width", "queue", "pushed"):
        if (value := getattr(settings, name)) < 1:
            yield f"objective.{name} is {value}; it must be at least 1"
    for name in ("head_lr", "student_steepness", "teacher_steepness"):
        if not 0 < (value := getattr(settings, name)) < math.inf:
            yield f"objective.{name} is {value}; it must be positive"
    for name in ("momentum", "momentum_end"):
        if not 0 <= (value := getattr(settings, name)) <= 1:
            yield f"objective.{name} is {value}; it must lie in [0, 1]"
    if not 0 <= settings.drop_path < 1:
        yield f"objective.drop_path is {settings.drop_path}; it must lie in [0, 1)"
    if not 2 <= settings.aligned <= MOST_ALIGNED:
        yield f"objective.aligned is {settings.aligned}; it must lie in [2, {MOST_ALIGNED}], a side of the grid"
    if settings.trainable_blocks is not None and settings.trainable_blocks < 1:
        yield f"objective.trainable_blocks is {settings.trainable_blocks}; at least 1, or null for all"
