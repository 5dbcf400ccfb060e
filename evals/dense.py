"""Models as encoders of patches: one protocol, and the doors to backbones of timm and to exports of ours."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data_pipeline.errors import InputError
from evals.encoder import CONFIG_FILE, WEIGHTS_FILE, Precision, check_device
from evals.timm_encoder import PREFIX, create_timm, file_identity, load_timm

TIMM_CONFIG_FILE, TIMM_WEIGHTS_FILE = "config.json", "model.safetensors"
_RESAMPLED = "dynamic_img_size"  # timm's option that resamples position embeddings to the image at hand

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
    """An encoder of patches from timm or from an export directory.

    model: timm:NAME:FILE.safetensors, timm:NAME:pretrained or timm:NAME (random weights); a directory with timm's
    config.json and model.safetensors; or one with open_clip_config.json and open_clip_model.safetensors, of which the
    visual tower is taken. The patch tokens are those behind the last layer and its norm, without class and register
    tokens. Position embeddings are resampled to the size of the images. The global random state is left alone, and no
    pickled code is run. Raises InputError for what cannot be found, loaded, or has no patch tokens.
    """
    target = check_device(device)
    if model.startswith(PREFIX):
        loaded = _timm_by_name(model)
    elif (Path(model) / CONFIG_FILE).is_file():
        loaded = _open_clip_directory(Path(model))
    elif (Path(model) / TIMM_CONFIG_FILE).is_file():
        loaded = _timm_directory(Path(model))
    else:
        kinds = f"{TIMM_CONFIG_FILE} and {TIMM_WEIGHTS_FILE}, or {CONFIG_FILE} and {WEIGHTS_FILE}"
        raise InputError(f"--model {model}: neither {PREFIX}NAME[:WEIGHTS] nor a directory with {kinds}")
    log.info("model %s, identity %s, %s on %s", loaded.name, loaded.identity, precision, device)
    return _PatchEncoder(loaded, target, precision)


@dataclass(frozen=True)
class _Loaded:
    """module: (B, 3, H, W) -> (B, N, D), the N = H/p * W/p patch tokens in rows."""

    module: torch.nn.Module
    name: str
    identity: str
    patch_size: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _PatchEncoder:
    def __init__(self, loaded: _Loaded, device: torch.device, precision: Precision) -> None:
        self.name, self.identity = loaded.name, loaded.identity
        self.patch_size, self.width = loaded.patch_size, loaded.width
        self.device, self.precision = device, precision
        self._module = loaded.module.to(device).eval()
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
            tokens = self._module(images.to(self.device, non_blocking=True))
        return tokens.float().cpu().reshape(len(images), height, width, self.width)


class _TimmTokens(torch.nn.Module):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone, self.prefix = backbone, backbone.num_prefix_tokens  # class, distillation and register tokens

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.forward_features(images)[:, self.prefix :]


class _OpenClipTokens(torch.nn.Module):
    """Patch tokens of open_clip's VisionTransformer, whose own forward pass knows one size of images."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        self.tower.output_tokens = True

    def forward(self, images: Tensor) -> Tensor:
        patch = self.tower.patch_size
        grid = (images.shape[2] // patch[0], images.shape[3] // patch[1])
        positions = {"positional_embedding": _resampled(self.tower.positional_embedding, self.tower.grid_size, grid)}
        return torch.func.functional_call(self.tower, positions, (images,))[1]


def _resampled(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(1 + new patches, D) of (1 + old patches, D): the class token's stays, as open_clip does it when it loads."""
    if old == new:
        return positions
    grid = positions[1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat((positions[:1], grid.permute(0, 2, 3, 1).flatten(1, 2)[0]))


def _timm_by_name(model: str) -> _Loaded:
    try:
        module, name, identity = load_timm(model, **{_RESAMPLED: True})
    except InputError as error:
        raise _no_patches(model, error) from error
    return _of_timm(model, module, name, identity)


def _timm_directory(path: Path) -> _Loaded:
    """timm's hub format; what the file says is data, and its architecture must be one that timm knows."""
    import timm

    weights, where = path / TIMM_WEIGHTS_FILE, path / TIMM_CONFIG_FILE
    if not weights.is_file():
        raise InputError(f"--model {path}: holds no {TIMM_WEIGHTS_FILE}; other files may hold code and are not read")
    try:
        config = json.loads(where.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: no JSON ({error}); export the model again") from None
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(f"{where}: its architecture, {architecture!r:.80}, is none of timm's")
    arguments, shown = (_mapping(config, key, where) for key in ("model_args", "pretrained_cfg"))
    options = {"num_classes": config.get("num_classes", 0), **arguments, _RESAMPLED: True}
    try:
        module = create_timm(str(path), architecture, weights, **options)
    except InputError as error:
        raise _no_patches(str(path), error) from error
    module.pretrained_cfg = {**module.pretrained_cfg, **shown}
    return _of_timm(str(path), module, str(path), file_identity(weights))


def _mapping(config: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be a JSON object, not {value!r:.60}")
    return value


def _no_patches(model: str, error: InputError) -> InputError:
    """timm's architectures refuse an argument that they do not know."""
    return InputError(f"--model {model}: it has no patch tokens; use a ViT") if _RESAMPLED in str(error) else error


def _of_timm(model: str, module: Any, name: str, identity: str) -> _Loaded:
    from timm.data import resolve_model_data_config

    if not hasattr(module, "num_prefix_tokens") or not hasattr(module, "patch_embed"):
        raise InputError(f"--model {model}: it has no patch tokens; use a ViT")
    patch = _square(model, module.patch_embed.patch_size)
    config = resolve_model_data_config(module)
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return _Loaded(_TimmTokens(module), name, identity, patch, module.num_features, mean, std)


def _open_clip_directory(path: Path) -> _Loaded:
    import open_clip  # seconds: only who loads such a model pays
    from open_clip.transformer import VisionTransformer

    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"--model {path}: holds no {WEIGHTS_FILE}; an export directory has it beside {CONFIG_FILE}")
    try:
        with torch.random.fork_rng(devices=[]):
            model = open_clip.create_model(f"local-dir:{path}", weights_only=True)
    except Exception as error:  # a bad config, weights that do not fit: each has its own kind
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"--model {path}: open_clip cannot load it ({type(error).__name__}: {reason})") from error
    tower = model.visual
    if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None or tower.pool_type == "none":
        raise InputError(f"--model {path}: its visual tower is no plain ViT, so its patch tokens are not known")
    shown, patch = tower.preprocess_cfg, _square(str(path), tower.patch_size)
    width, mean, std = tower.conv1.out_channels, tuple(shown["mean"]), tuple(shown["std"])
    return _Loaded(_OpenClipTokens(tower), str(path), file_identity(weights), patch, width, mean, std)


def _square(model: str, patch: tuple[int, int]) -> int:
    if patch[0] != patch[1]:
        raise InputError(f"--model {model}: patches of {patch[0]} x {patch[1]} pixels; they must be square")
    return patch[0]
