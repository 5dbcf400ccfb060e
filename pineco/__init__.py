"""Pretrain vision encoders that see as people do.

The names below are the public interface; each is imported only when it is first used. Everything else may change
between releases.

    soft_sort, patch_distance, neco_loss   differentiable kernels (Triton on CUDA, PyTorch on CPU)
    load_model, load_perceptual            any checkpoint, open_clip or timm model; its perceptual distance
    load_recipe, train                     a recipe by name or path; train it here
    make_toy_world, build_index            the embedded data set; an index for webdataset shards
    InputError                             what every function raises for a bad input
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "soft_sort": "kernels.soft_sort",
    "patch_distance": "kernels.patch_distance",
    "neco_loss": "kernels.neco_loss",
    "load_model": "evals.models.load",
    "load_perceptual": "evals.models.perceptual",
    "load_recipe": "pretrain.recipe.load",
    "train": "launch.train.training",
    "make_toy_world": "data_pipeline.prepare.toy",
    "build_index": "data_pipeline.index",
    "InputError": "data_pipeline.errors",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pineco' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pineco.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
