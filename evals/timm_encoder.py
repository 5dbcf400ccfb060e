"""Backbones of timm as encoders of images. They have no text tower, so zero-shot tasks refuse them."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from data_pipeline.errors import InputError

PREFIX = "timm:"
HUB = "pretrained"  # instead of a file: timm's own weights, which it downloads


class TimmEncoder:
    """timm:NAME:FILE.safetensors, timm:NAME:pretrained, or timm:NAME, which has random weights (seed 0)."""

    def __init__(self, model: str, device: torch.device, precision: Literal["fp32", "bf16"]) -> None:
        import timm
        from timm.data import create_transform, resolve_model_data_config

        name, _, weights = model.removeprefix(PREFIX).partition(":")
        _check(model, name, weights)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                module: Any = timm.create_model(name, pretrained=weights == HUB)
            if weights not in ("", HUB):
                _load(module, Path(weights))
            module.reset_classifier(0)
        except Exception as error:  # weights that do not fit, a failed download: each has its own kind
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"--model {model}: timm cannot load it ({type(error).__name__}: {reason})") from error
        self._module = module.to(device).eval()
        self._transform = create_transform(**resolve_model_data_config(self._module), is_training=False)
        self.name = model if weights else f"{model} (random weights)"
        self.identity = _identity(name, weights)
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
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=1, cutoff=0.0)[0]
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


def _identity(name: str, weights: str) -> str:
    if weights in ("", HUB):
        return f"timm:{name}:{weights or 'random-seed-0'}"
    with Path(weights).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
