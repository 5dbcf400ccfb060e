"""What the settings of learning from triplets may be. Imports no torch, so that a login node can refuse a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pineco.pretrain.recipe.settings import AlignSettings, PerceptualInitSettings, Recipe, TripletSettings

MOST_RANK = 4096  # beyond a matrix's width a rank adds nothing, and a slip of the keyboard would fill the memory


def align_problems(recipe: Recipe) -> Iterator[str]:
    """What is wrong with a recipe that learns from triplets, one line each; nothing for any other recipe."""
    if isinstance(recipe.data, TripletSettings):
        yield from _of_rows(recipe.data)
    settings = recipe.objective
    if isinstance(settings, AlignSettings | PerceptualInitSettings) and not 0 < settings.margin < math.inf:
        yield f"objective.margin is {settings.margin}; it must be positive and finite"
    if isinstance(settings, AlignSettings):
        yield from _of_alignment(settings)


def _of_rows(data: TripletSettings) -> Iterator[str]:
    if data.min_votes < 0:
        yield f"data.min_votes is {data.min_votes}; it must not be negative"
    if not 0 < data.share <= 1:
        yield f"data.share is {data.share}; it must be above 0 and at most 1"


def _of_alignment(settings: AlignSettings) -> Iterator[str]:
    hidden, lora = settings.head_hidden, settings.lora
    if settings.tune == "head" and hidden is None:
        yield "objective.tune is head, so objective.head_hidden must be set, e.g. 512"
    if hidden is not None and hidden < 1:
        yield f"objective.head_hidden is {hidden}; it must be at least 1, or null for no head"
    if settings.image_size < 1:
        yield f"objective.image_size is {settings.image_size}; it must be at least 1"
    if settings.weights is not None and settings.ensemble:
        yield "objective.weights and objective.ensemble are both set; members name their own, so pass weights=null"
    if not 1 <= lora.rank <= MOST_RANK:
        yield f"objective.lora.rank is {lora.rank}; it must lie in [1, {MOST_RANK}]"
    if lora.alpha < 1:
        yield f"objective.lora.alpha is {lora.alpha}; it must be at least 1"
    if not 0 <= lora.dropout < 1:
        yield f"objective.lora.dropout is {lora.dropout}; it must lie in [0, 1)"
