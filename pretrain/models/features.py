"""One vector for each image: what perceptual distances are measured between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.models.backbones import Backbone, TimmBackbone
from pineco.pretrain.recipe.objectives import Features


def image_features(backbone: Backbone, module: Any, images: Tensor, kind: Features) -> Tensor:
    """(B, 3, S, S) normalised -> (B, D), or (B, 2 D) for cls_patch.

    cls: the class token behind the last block, before the last norm, as the published code reads it. embedding: what
    the model itself gives for an image, such as CLIP's projected vector. cls_patch: the class token and the mean of the
    patch tokens, one after the other, before the norm, too (2410.10817); register tokens are in neither. module: the
    backbone's own, or a copy of it.
    """
    of = timm_features if isinstance(backbone, TimmBackbone) else clip_features
    return of(module, images, kind)


def timm_features(module: Any, images: Tensor, kind: Features) -> Tensor:
    """`image_features` of a vision transformer of timm. InputError where it has no class token."""
    if kind == "embedding":
        embedding: Tensor = module(images)
        return embedding
    if module.cls_token is None:
        raise InputError("objective.features: this model has no class token; pass objective.features=embedding")
    options = {"output_fmt": "NLC", "intermediates_only": True, "return_prefix_tokens": True}
    patches, prefix = module.forward_intermediates(images, indices=1, norm=False, **options)[0]
    return _joined(prefix[:, 0], patches, kind)


def clip_features(clip: Any, images: Tensor, kind: Features) -> Tensor:
    """`image_features` of an open_clip CLIP whose image tower is a vision transformer."""
    if kind == "embedding":
        embedding: Tensor = clip.encode_image(images)
        return embedding
    found = clip.visual.forward_intermediates(
        images,
        indices=1,
        normalize_intermediates=False,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    return _joined(found["image_intermediates_prefix"][0][:, 0], found["image_intermediates"][0], kind)


def feature_width(backbone: Backbone, kind: Features) -> int:
    """D of `image_features`."""
    if kind == "embedding" and not isinstance(backbone, TimmBackbone):
        return int(backbone.module.visual.output_dim)
    return backbone.width * (2 if kind == "cls_patch" else 1)


def _joined(token: Tensor, patches: Tensor, kind: Features) -> Tensor:
    return token if kind == "cls" else torch.cat((token, patches.mean(dim=1)), dim=1)
