"""The type that every evaluation measures: a vision model, ours or anyone's, and what it can do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pineco.data_pipeline.errors import InputError

Precision = Literal["fp32", "bf16"]
Capability = Literal["image", "tokens", "class_token", "text"]

_LACKING: dict[Capability, str] = {
    "tokens": "it has no patch tokens; use a ViT",
    "class_token": "it has no class token; use --features embedding",
    "text": "it has no text tower; zero-shot tasks need one",
}


@dataclass(frozen=True)
class TokenReader:
    """How a vision transformer gives its tokens: P prefix tokens, then N = H/p * W/p patches, row by row."""

    forward: Callable[[Tensor, bool], Tensor]  # (B, 3, H, W), after the last norm or before -> (B, P + N, D)
    num_prefix_tokens: int  # P: class, distillation and register tokens
    has_class_token: bool  # whether the first token is a class token
    patch_size: tuple[int, int]  # pixels
    width: int  # D
    any_size: bool = True  # False: H = W = image_size


@dataclass(frozen=True)
class TextTower:
    """How a model reads; L is the length of its context."""

    tokenizer: Callable[[list[str]], Tensor]  # T texts -> (T, L) int64
    forward: Callable[[Tensor], Tensor]  # (T, L) -> (T, E)


@dataclass(frozen=True, eq=False)
class Model:
    """A vision model on a device; E is the width of its embeddings.

    `embed`, `tokens` and `encode_texts` measure: batch by batch, without gradients, in `precision`, float32 on the CPU.
    `forward_image` and `forward_tokens` are the bare functions behind them, on the device and with gradients. What
    `capabilities` does not name raises InputError.
    """

    name: str  # for people
    identity: str  # for machines: equal only where the weights are; the SHA-256 of their file where there is one
    module: torch.nn.Module  # as its library made it, in evaluation mode; its parameters are not frozen
    preprocess: Callable[[Image.Image], Tensor]  # one RGB image -> (3, S, S) float32, as it wants it; thread-safe
    image_size: int  # S: pixels of a side that it was made for
    mean: tuple[float, ...]  # of pixels in [0, 1], by channel
    std: tuple[float, ...]
    forward_image: Callable[[Tensor], Tensor]  # (B, 3, S, S), normalised -> (B, E), not of unit length
    token_reader: TokenReader | None = None  # None for what is not a plain vision transformer
    text_tower: TextTower | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"  # "bf16" runs the towers under autocast

    @property
    def capabilities(self) -> frozenset[Capability]:
        """image: `embed`; tokens: `tokens`, `forward_tokens`, `patch_size`, `width`; text: `tokenizer`, `encode_texts`.

        class_token: the first of `forward_tokens` is a class token.
        """
        found: dict[Capability, bool] = {
            "image": True,
            "tokens": self.token_reader is not None,
            "class_token": self.token_reader is not None and self.token_reader.has_class_token,
            "text": self.text_tower is not None,
        }
        return frozenset(capability for capability, here in found.items() if here)

    def require(self, capability: Capability) -> None:
        """Raises InputError, which names model and capability, for a model that lacks it."""
        if capability not in self.capabilities:
            raise InputError(f"--model {self.name}: {_LACKING[capability]}")

    def to(self, device: torch.device, precision: Precision) -> Model:
        """The same model there; as in PyTorch, its module is moved, not copied."""
        self.module.to(device)
        return replace(self, device=device, precision=precision)

    def embed(self, images: Tensor) -> Tensor:
        """(B, E) float32 on the CPU, of unit length, of (B, 3, S, S) float32 from `preprocess`."""
        return F.normalize(self._run(self.forward_image, images), dim=-1).cpu()

    @property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """T texts -> (T, L) int64."""
        return self._text_tower.tokenizer

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """(T, E) float32 on the CPU, of unit length, of (T, L) int64 from `tokenizer`."""
        return F.normalize(self._run(self._text_tower.forward, tokens), dim=-1).cpu()

    @property
    def patch_size(self) -> int:
        """Pixels of a patch's side."""
        height, width = self._token_reader.patch_size
        if height != width:
            raise InputError(f"--model {self.name}: patches of {height} x {width} pixels; they must be square")
        return height

    @property
    def width(self) -> int:
        """Features of a token: D."""
        return self._token_reader.width

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: P."""
        return self._token_reader.num_prefix_tokens

    def tokens(self, images: Tensor) -> Tensor:
        """(B, H/p, W/p, D) float32 on the CPU: the patch tokens after the last norm, of (B, 3, H, W) from `squash`."""
        size, own = tuple(images.shape[2:]), self.image_size
        if not self._token_reader.any_size and size != (own, own):
            raise InputError(
                f"--model {self.name}: images of {size[0]} x {size[1]} pixels; it takes {own} x {own} alone"
            )
        height, width = (side // self.patch_size for side in size)
        tokens = self._run(lambda pixels: self.forward_tokens(pixels)[:, self.num_prefix_tokens :], images)
        return tokens.cpu().reshape(len(images), height, width, self.width)

    def forward_tokens(self, images: Tensor, *, norm: bool = True) -> Tensor:
        """(B, P + N, D) after the last block, of (B, 3, H, W); norm: after the last norm, too."""
        return self._token_reader.forward(images, norm)

    def squash(self, image: Image.Image, size: int) -> Tensor:
        """(3, size, size) float32 of one RGB image, made square by bicubic interpolation, normalised. Thread-safe."""
        pixels = np.array(image.resize((size, size), Image.Resampling.BICUBIC))
        return self.normalise(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) with the model's mean and standard deviation, of pixels in [0, 1]."""
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (self.mean, self.std))
        return (pixels - mean) / std

    @property
    def _token_reader(self) -> TokenReader:
        self.require("tokens")
        assert self.token_reader is not None
        return self.token_reader

    @property
    def _text_tower(self) -> TextTower:
        self.require("text")
        assert self.text_tower is not None
        return self.text_tower

    def _check_size(self, height: int, width: int) -> None:
        own = self.image_size
        if not self._token_reader.any_size and (height, width) != (own, own):
            raise InputError(f"--model {self.name}: images of {height} x {width} pixels; it takes {own} x {own} alone")

    def _run(self, forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """float32 before anything is normalised: bf16 would round unit length to three digits."""
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            return forward(inputs.to(self.device, non_blocking=True)).float()


def check_size(size: int, patch: int) -> None:
    """Raises InputError for images whose side, in pixels, is not a whole number of patches."""
    if size < patch or size % patch:
        below, above = max(1, size // patch) * patch, (size // patch + 1) * patch
        near = f"{below} or {above}" if below != above else f"{above}"
        raise InputError(f"--size {size}: not a multiple of the model's patch size {patch}; nearest is {near}")


def file_identity(path: Path) -> str:
    """SHA-256 of a file of weights, as a model's identity."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def loading(name: str, library: str) -> Iterator[None]:
    """Turns what a library raises (a bad config, a failed download, weights that do not fit) into one InputError."""
    try:
        yield
    except Exception as error:  # each has its own kind
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"--model {name}: {library} cannot load it ({type(error).__name__}: {reason})") from error
