"""Sizes of timm's vision transformers, from their names alone: neither torch nor timm is imported."""

from __future__ import annotations

import re

from pineco.launch.plan.model_size import NoEstimateError, Tower

TIMM = "timm:"  # before the name, in a recipe
KNOWN = "vit_{tiny,small,base,large}_patch{8,14,16,32}_PIXELS, .._clip_PIXELS, .._dinov2 and .._reg4_dinov2"
_NAME = re.compile(
    r"vit_(?P<size>tiny|small|base|large)_patch(?P<patch>8|14|16|32)"
    r"((?P<registers>_reg4)?(?P<dinov2>_dinov2)|(?P<clip>_clip(_quickgelu)?)?_\d+)"
)
_SHAPES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width, layers


def timm_tower(name: str, image_size: int) -> Tower:
    """Without its classifier. What follows a dot in the name says who trained the weights, and changes no size.

    image_size: pixels, that positions are made for; the number in the name is not used. DINOv2's have layer scale,
    those with registers no position for the tokens before the patches, and CLIP's a norm instead of a patch bias.
    Raises NoEstimateError for names of other models.
    """
    found = _NAME.fullmatch(name.partition(".")[0])
    if found is None:
        raise NoEstimateError(f"model {TIMM}{name}: no formula for its size; known are {KNOWN}")
    (width, layers), patch, registers = _SHAPES[found["size"]], int(found["patch"]), 4 if found["registers"] else 0
    positions = (image_size // patch) ** 2 + (0 if registers else 1)
    clip = found["clip"] is not None
    before = 2 * width if clip else width  # the norm, or the bias
    tower = Tower(
        layers=layers,
        width=width,
        hidden=4 * width,
        tokens=0,
        output=0,
        input_parameters=width * 3 * patch * patch + before + (1 + registers + positions) * width,
        input_flops=0,
        input_values=0,
        patch=patch,
        prefix=1 + registers,
        pre_norm=clip,
        layer_scale=found["dinov2"] is not None,
    )
    return tower.at(image_size)
