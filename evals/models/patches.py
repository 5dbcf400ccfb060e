"""Models as encoders of patches: one protocol, and the door to what `pineco.evals.models.vision` loads."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.encoder import Precision, check_device
from pineco.evals.models.vision import Vision, load_vision

log = logging.getLogger(__name__)


class DenseEncoder(Protocol):
    """What a dense evaluation needs of a model; D is the width of its patch features."""

    name: str  # for people
    identity: str  # for machines: equal only where the weights are
    device: torch.device  # where it computes
    precision: Precision
    patch_size: int  # pixels of a patch's side
    width: int  # D

    def preprocess(self, image: Image.Image, size: int) -> Tensor:
        """(3, size, size) float32 of one RGB image: squashed to a square, bicubic, with the model's mean and deviation.

        Thread-safe.
        """

    def encode_patches(self, images: Tensor) -> Tensor:
        """(B, H/p, W/p, D) float32 on the CPU, not normalised, of (B, 3, H, W) float32 from `preprocess`."""


def load_dense_encoder(model: str, *, device: str = "cpu", precision: Precision = "fp32") -> DenseEncoder:
    """An encoder of patches from timm or from an export directory; see `pineco.evals.models.vision.load_vision`.

    The patch tokens are those behind the last layer and its norm, without class and register tokens. Raises InputError
    for what cannot be found, loaded, or has no patch tokens.
    """
    target = check_device(device)
    loaded = load_vision(model, vit=True)
    encoder = _PatchEncoder(loaded, target, precision)
    log.info("model %s, identity %s, %s on %s", loaded.name, loaded.identity, precision, device)
    return encoder


class _PatchEncoder:
    def __init__(self, loaded: Vision, device: torch.device, precision: Precision) -> None:
        self.name, self.identity = loaded.name, loaded.identity
        self._tokens = loaded.require_tokens()
        self.patch_size, self.width = self._tokens.patch_size, self._tokens.width
        self.device, self.precision = device, precision
        loaded.module.to(device)
        self._mean, self._std = (torch.tensor(value)[:, None, None] for value in (loaded.mean, loaded.std))

    def preprocess(self, image: Image.Image, size: int) -> Tensor:
        pixels = np.array(image.resize((size, size), Image.Resampling.BICUBIC))
        return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - self._mean) / self._std

    def encode_patches(self, images: Tensor) -> Tensor:
        height, width = (side // self.patch_size for side in images.shape[2:])
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            tokens = self._tokens.patches(images.to(self.device, non_blocking=True))
        return tokens.float().cpu().reshape(len(images), height, width, self.width)


def check_size(size: int, patch: int) -> None:
    if size < patch or size % patch:
        below, above = max(1, size // patch) * patch, (size // patch + 1) * patch
        near = f"{below} or {above}" if below != above else f"{above}"
        raise InputError(f"--size {size}: not a multiple of the model's patch size {patch}; nearest is {near}")
