"""What a recipe's settings may be, beyond their types. Imports no torch, so that a login node can refuse a recipe."""

from __future__ import annotations

import math

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.triplets.caption_template import check_template
from pineco.pretrain.recipe.align_limits import align_problems
from pineco.pretrain.recipe.neco_limits import neco_problems
from pineco.pretrain.recipe.settings import NecoSettings, PerceptualInitSettings, Recipe, TripletSettings


def check_limits(recipe: Recipe) -> None:
    """Raises InputError for the first setting that cannot be."""
    data, schedule, every = recipe.data, recipe.schedule, recipe.checkpoint
    positive = {
        "schedule.steps": schedule.steps,
        "checkpoint.every_epochs": every.every_epochs,
        "checkpoint.every_steps": every.every_steps,
        "evaluation.batch_size": recipe.evaluation.batch_size,
        "data.batch_size": data.batch_size,
        "data.accumulation": data.accumulation,
        "data.lanes": data.lanes,
        "data.workers": data.workers,
        "data.connections": data.connections,
        "schedule.epochs": schedule.epochs,
        "checkpoint.keep": recipe.checkpoint.keep,
        "log_every": recipe.log_every,
    }
    for key, value in positive.items():
        _require(recipe, value is None or value >= 1, f"{key} is {value}; it must be at least 1")
    for key, value in {"data.prefetch": data.prefetch, "schedule.warmup": schedule.warmup}.items():
        _require(recipe, value >= 0, f"{key} is {value}; it must not be negative")
    for key, value in {"data.memory_gib": data.memory_gib, "data.cache_gib": data.cache_gib}.items():
        _require(recipe, value > 0, f"{key} is {value}; it must be positive")
    for key, value in {"data.bad_share": data.bad_share, "data.bad_per_shard": data.bad_per_shard}.items():
        _require(recipe, value >= 0, f"{key} is {value}; it must not be negative")
    low, high = getattr(data, "crop_scale", (1.0, 1.0))
    _require(
        recipe, 0 < low <= high <= 1, f"data.crop_scale is [{low}, {high}]; shares of the area, 0 < low <= high <= 1"
    )
    unit = data.accumulation * data.lanes
    _require(
        recipe,
        data.batch_size % unit == 0,
        f"data.batch_size is {data.batch_size}; it must be a multiple of data.accumulation * data.lanes = {unit}",
    )
    _check_captions(recipe)
    neco = neco_problems(recipe) if isinstance(recipe.objective, NecoSettings) else ()
    for problem in (*align_problems(recipe), *neco):
        _require(recipe, False, problem)
    _check_optimizer(recipe)
    _require(
        recipe,
        recipe.init == "random" or bool(recipe.init_recipe or recipe.init_checkpoint),
        f"init is {recipe.init}, so init_recipe or init_checkpoint must be set",
    )


def _check_optimizer(recipe: Recipe) -> None:
    optimizer = recipe.optimizer
    for key, value in {"lr": optimizer.lr, "eps": optimizer.eps}.items():
        _require(recipe, 0 < value < math.inf, f"optimizer.{key} is {value}; it must be positive and finite")
    for key, decay in {"weight_decay": optimizer.weight_decay, "weight_decay_end": optimizer.weight_decay_end}.items():
        allowed = decay is None or 0 <= decay < math.inf
        _require(recipe, allowed, f"optimizer.{key} is {decay}; it must be finite and not negative")
    betas = list(optimizer.betas)
    _require(recipe, all(0 <= beta < 1 for beta in betas), f"optimizer.betas is {betas}; both must lie in [0, 1)")


def _check_captions(recipe: Recipe) -> None:
    if isinstance(recipe.data, TripletSettings):
        check_template(recipe.data.caption, recipe.name)
    settings = recipe.objective
    if not isinstance(settings, PerceptualInitSettings):
        return
    weight, largest = settings.caption_weight, settings.max_logit_scale
    told = f"objective.caption_weight is {weight}"
    _require(recipe, 0 <= weight < math.inf, f"{told}; it must be finite and not negative")
    _require(
        recipe,
        weight == 0 or settings.features == "embedding",
        f"{told} and objective.features {settings.features}; captions need objective.features=embedding",
    )
    _require(recipe, largest >= 1, f"objective.max_logit_scale is {largest}; it must be at least 1")


def _require(recipe: Recipe, condition: bool, what: str) -> None:
    if not condition:
        raise InputError(f"{recipe.name}: {what}")
