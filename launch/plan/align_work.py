"""What perceptual alignment makes of a triplet: three images through each backbone, of which LoRA trains a little."""

from __future__ import annotations

from dataclasses import dataclass

from pineco.launch.plan.model_size import Precision, Tower, model_size
from pineco.launch.plan.timm_size import TIMM, timm_tower
from pineco.launch.plan.workload import Amount, Work
from pineco.pretrain.recipe.objectives import AlignMember, AlignSettings
from pineco.pretrain.recipe.settings import Recipe

IMAGES = 3


@dataclass(frozen=True)
class Member:
    """One backbone: its tower, the parameters of the model it is part of, and the width of its features."""

    tower: Tower
    parameters: int
    features: int


def align_work(recipe: Recipe) -> Work:
    """Raises NoEstimateError for a backbone that no formula knows.

    Under LoRA no gradient of the frozen matrices is made, so the backward pass costs one forward pass instead of two,
    and their inputs are not kept.
    """
    settings = recipe.objective
    assert isinstance(settings, AlignSettings)
    members = [_member(member, settings) for member in _members(recipe, settings)]
    adapted = sum(_lora(member.tower, settings.lora.rank) for member in members) if settings.tune == "lora" else 0
    head, passes = _head(settings, sum(member.features for member in members)), {"lora": 2, "full": 3, "head": 1}
    forward = IMAGES * sum(member.tower.flops for member in members)
    times = passes[settings.tune] + (settings.checkpointing and settings.tune != "head")
    models, towers = sum(member.parameters for member in members), sum(member.tower.parameters for member in members)
    precision = recipe.engine.precision
    kept = 0 if settings.tune == "head" else IMAGES * sum(_kept(m.tower, precision, settings) for m in members)
    trained = head + {"lora": adapted, "full": towers, "head": 0}[settings.tune]
    return Work(
        images=IMAGES,
        exported=models,
        parameters=models + adapted + head,
        trained=trained,
        flops=times * forward,
        flops_formula=f"({times} x {IMAGES} x {forward / IMAGES / 1e9:.2f} GFLOP)",
        activations=kept,
        kept=Amount("weights below adapters", 4.0 * models, f"4 x {models / 1e6:.2f} M, beside the merged ones"),
        saving="" if settings.checkpointing else "objective.checkpointing=true",
    )


def _members(recipe: Recipe, settings: AlignSettings) -> list[AlignMember]:
    return settings.ensemble or [AlignMember(model=recipe.model, features=settings.features)]


def _member(member: AlignMember, settings: AlignSettings) -> Member:
    twice = 2 if member.features == "cls_patch" else 1
    if member.model.startswith(TIMM):
        tower = timm_tower(member.model.removeprefix(TIMM), settings.image_size)
        return Member(tower, tower.parameters, twice * tower.width)
    size = model_size(member.model)
    width = size.embed_dim if member.features == "embedding" else twice * size.vision.width
    return Member(size.vision, size.parameters, width)


def _lora(tower: Tower, rank: int) -> int:
    """r (w + 3 w) in every layer."""
    return tower.layers * rank * 4 * tower.width


def _head(settings: AlignSettings, width: int) -> int:
    hidden = settings.head_hidden
    return 0 if hidden is None else 2 * hidden * width + hidden + width


def _kept(tower: Tower, precision: Precision, settings: AlignSettings) -> int:
    """Bytes of an image; with checkpointing the inputs of the layers, and one layer."""
    layer = tower.layer_bytes(precision) - (_spared(tower, precision) if settings.tune == "lora" else 0)
    whole = 2 * layer + 4 * tower.layers * tower.tokens * tower.width
    return (whole if settings.checkpointing else (tower.layers + 1) * layer) + tower.input_bytes(precision)


def _spared(tower: Tower, precision: Precision) -> int:
    """Bytes of a layer: the inputs of three of its four matrices; that of qkv is the adapter's, too."""
    return tower.tokens * (2 if precision == "bf16" else 4) * (2 * tower.width + tower.hidden)
