"""Backbones of timm as encoders of images. They have no text tower, so zero-shot tasks refuse them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.hints import nearest

PREFIX = "timm:"
HUB = "pretrained"  # instead of a file: timm's own weights, which it downloads


class TimmModel(NamedTuple):
    """A backbone on the CPU, without its classifier."""

    module: Any
    name: str  # for people
    identity: str  # for machines


def load_timm(model: str, **options: Any) -> TimmModel:
    """timm:NAME:FILE.safetensors, timm:NAME:pretrained, or timm:NAME, which has random weights (seed 0).

    options: further arguments of the architecture. Raises InputError for what cannot be found or loaded.
    """
    name, _, weights = model.removeprefix(PREFIX).partition(":")
    _check(model, name, weights)
    file = Path(weights) if weights not in ("", HUB) else None
    module = create_timm(model, name, file, pretrained=weights == HUB, **options)
    identity = f"timm:{name}:{weights or 'random-seed-0'}" if file is None else file_identity(file)
    return TimmModel(module, model if weights else f"{model} (random weights)", identity)


def create_timm(model: str, architecture: str, weights: Path | None, **options: Any) -> Any:
    """timm's `architecture` with the tensors of a .safetensors file, random (seed 0) where there is none.

    model: as the user wrote it, for messages. Raises InputError.
    """
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            module: Any = timm.create_model(architecture, **options)
        if weights is not None:
            _load(module, weights)
        module.reset_classifier(0)
    except Exception as error:  # weights that do not fit, a failed download: each has its own kind
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"--model {model}: timm cannot load it ({type(error).__name__}: {reason})") from error
    return module


def file_identity(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


class TimmEncoder:
    """timm:NAME:FILE.safetensors, timm:NAME:pretrained, or timm:NAME, which has random weights (seed 0)."""

    def __init__(self, model: str, device: torch.device, precision: Literal["fp32", "bf16"]) -> None:
        from timm.data import create_transform, resolve_model_data_config

        module, self.name, self.identity = load_timm(model)
        self._module = module.to(device).eval()
        self._transform = create_transform(**resolve_model_data_config(self._module), is_training=False)
        self.device, self.precision = device, precision

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._transform(image)

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, D) float32 on the CPU, L2-normalised: the backbone's pooled features."""
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            features = self._module(images.to(self.device, non_blocking=True))
        return F.normalize(features.float(), dim=-1).cpu()

    def encode_texts(self, texts: list[str]) -> Tensor:
        raise InputError(f"--model {self.name}: a timm backbone has no text tower; zero-shot tasks need one")


def _check(model: str, name: str, weights: str) -> None:
    import timm

    if not timm.is_model(name):
        near = nearest(name.partition(".")[0], timm.list_models())
        raise InputError(f"--model {model}: timm has no {name!r}; nearest model is {PREFIX}{near}")
    if weights in ("", HUB):
        return
    if not Path(weights).is_file():
        raise InputError(f"--model {model}: no weights file {weights}; give a .safetensors file or {HUB!r}")
    if Path(weights).suffix != ".safetensors":
        raise InputError(f"--model {model}: {weights} is no .safetensors file; others may hold code and are not read")


def _load(module: Any, weights: Path) -> None:
    """Every tensor but those of the classifier, and no other: timm itself would leave random what does not fit."""
    head = tuple(f"{name}." for name in np.atleast_1d(module.default_cfg.get("classifier") or ()))
    missing, unexpected = module.load_state_dict(load_file(weights), strict=False)
    missing = [name for name in missing if not name.startswith(head)]
    if missing or unexpected:
        raise ValueError(f"lacks {', '.join(missing) or 'nothing'}, has unknown {', '.join(unexpected) or 'nothing'}")
