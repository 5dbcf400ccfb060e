"""The published families of vision transformers, small: timm knows these names once this module is imported."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import LayerNorm, SwiGLUPacked
from timm.models import VisionTransformer, build_model_with_cfg, register_model
from torch import nn

_SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_CLIP = {"pre_norm": True, "norm_layer": partial(LayerNorm, eps=1e-5)}


def _register(name: str, **options: Any) -> str:
    """The name of a model as recipes have it."""

    def build(pretrained: bool = False, **given: Any) -> VisionTransformer:
        return build_model_with_cfg(VisionTransformer, name, pretrained, **{**_SMALL, **options, **given})

    build.__name__ = name
    register_model(build)
    return f"timm:{name}"


DINO = _register("tiny_dino")
DINOV2 = _register("tiny_dinov2", init_values=1e-5)
DINOV2_REG = _register("tiny_dinov2_reg4", init_values=1e-5, reg_tokens=4, no_embed_class=True)
DINOV2_GIANT = _register("tiny_dinov2_giant", init_values=1e-5, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)
CLIP = _register("tiny_clip", **_CLIP)
CLIP_QUICKGELU = _register("tiny_clip_quickgelu", **_CLIP, act_layer="quick_gelu")
SIGLIP = _register("tiny_siglip", class_token=False, global_pool="map")
