"""Vision models of timm and of open_clip as functions of images: all their tokens, and the embedding that they give."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.encoder import CONFIG_FILE, WEIGHTS_FILE
from pineco.evals.models.timm_images import PREFIX, create_timm, file_identity, load_timm

TIMM_CONFIG_FILE, TIMM_WEIGHTS_FILE = "config.json", "model.safetensors"
_RESAMPLED = "dynamic_img_size"  # timm's option that resamples position embeddings to the image at hand


@dataclass(frozen=True)
class Tokens:
    """How a vision transformer gives its tokens; N = H/p * W/p patches in rows, after P tokens that are none."""

    of: Callable[[Tensor], Tensor]  # (B, 3, H, W) -> (B, P + N, D), behind the last layer and its norm
    before_norm: Callable[[Tensor], Tensor]  # the same without the norm
    prefix: int  # P: class, distillation and register tokens
    has_class: bool  # whether the first of all is a class token
    patch_size: int  # p, in pixels
    width: int  # D

    def patches(self, images: Tensor) -> Tensor:
        """(B, N, D) of (B, 3, H, W)."""
        return self.of(images)[:, self.prefix :]


@dataclass(frozen=True)
class Vision:
    """A model on the CPU. Its functions take normalised images, and follow `module` to a device."""

    module: torch.nn.Module
    name: str  # for people
    identity: str  # for machines: equal only where the weights are
    image_size: int  # pixels of a side that it was made for
    mean: tuple[float, ...]  # of pixels in [0, 1], by channel
    std: tuple[float, ...]
    embed: Callable[[Tensor], Tensor]  # (B, 3, S, S) -> (B, E), not normalised
    tokens: Tokens | None  # None for what is no plain vision transformer

    def require_tokens(self) -> Tokens:
        if self.tokens is None:
            raise _no_tokens(self.name)
        return self.tokens


def load_vision(model: str, *, vit: bool = False) -> Vision:
    """A vision model of timm, or of an export directory.

    model: timm:NAME:FILE.safetensors, timm:NAME:pretrained or timm:NAME (random weights); a directory with timm's
    config.json and model.safetensors; or one with open_clip_config.json and open_clip_model.safetensors, of which the
    visual tower is taken. Transformers resample their position embeddings to the size of the images. The global random
    state is left alone, and no pickled code is run. vit: whether to refuse what is no plain vision transformer. Raises
    InputError for what cannot be found or loaded.
    """
    found = _load(model, vit)
    if vit:
        found.require_tokens()
    return found


def _load(model: str, vit: bool) -> Vision:
    if model.startswith(PREFIX):
        return _of_timm(*_resampling(model, lambda **options: load_timm(model, **options), vit))
    if (Path(model) / CONFIG_FILE).is_file():
        return _open_clip_directory(Path(model))
    if (Path(model) / TIMM_CONFIG_FILE).is_file():
        return _timm_directory(Path(model), vit)
    kinds = f"{TIMM_CONFIG_FILE} and {TIMM_WEIGHTS_FILE}, or {CONFIG_FILE} and {WEIGHTS_FILE}"
    raise InputError(f"--model {model}: neither {PREFIX}NAME[:WEIGHTS] nor a directory with {kinds}")


def _resampling(model: str, load: Callable[..., Any], vit: bool) -> Any:
    """What `load` gives for images of any size; architectures that know no such option are loaded without it."""
    try:
        return load(**{_RESAMPLED: True})
    except InputError as error:
        if _RESAMPLED not in str(error):
            raise
        if vit:
            raise _no_tokens(model) from error
        return load()


def _no_tokens(model: str) -> InputError:
    return InputError(f"--model {model}: it has no patch tokens; use a ViT")


def _timm_directory(path: Path, vit: bool) -> Vision:
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
    given = {"num_classes": config.get("num_classes", 0), **arguments}
    given.pop(_RESAMPLED, None)

    def create(**options: Any) -> Any:
        return create_timm(str(path), architecture, weights, **given, **options)

    module = _resampling(str(path), create, vit)
    module.pretrained_cfg = {**module.pretrained_cfg, **shown}
    return _of_timm(module, str(path), file_identity(weights))


def _mapping(config: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be a JSON object, not {value!r:.60}")
    return value


def _of_timm(module: Any, name: str, identity: str) -> Vision:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(module)
    size, mean, std = max(config["input_size"][1:]), tuple(config["mean"]), tuple(config["std"])
    module.eval()
    return Vision(module, name, identity, size, mean, std, module, _timm_tokens(module, name))


def _timm_tokens(module: Any, name: str) -> Tokens | None:
    if not hasattr(module, "num_prefix_tokens") or not hasattr(module, "patch_embed"):
        return None
    patch, has_class = _square(name, module.patch_embed.patch_size), getattr(module, "cls_token", None) is not None
    last = partial(_timm_last_block, module)
    return Tokens(module.forward_features, last, module.num_prefix_tokens, has_class, patch, module.num_features)


def _timm_last_block(module: Any, images: Tensor) -> Tensor:
    """(B, P + N, D), for P > 0."""
    options = {"output_fmt": "NLC", "intermediates_only": True, "return_prefix_tokens": True}
    patches, prefix = module.forward_intermediates(images, indices=1, norm=False, **options)[0]
    return torch.cat((prefix, patches), dim=1)


def _open_clip_directory(path: Path) -> Vision:
    import open_clip  # seconds: only who loads such a model pays
    from open_clip.transformer import VisionTransformer

    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"--model {path}: holds no {WEIGHTS_FILE}; an export directory has it beside {CONFIG_FILE}")
    try:
        with torch.random.fork_rng(devices=[]):
            model: Any = open_clip.create_model(f"local-dir:{path}", weights_only=True)
    except Exception as error:  # a bad config, weights that do not fit: each has its own kind
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"--model {path}: open_clip cannot load it ({type(error).__name__}: {reason})") from error
    tower, identity = model.visual.eval(), file_identity(weights)
    size, shown = tower.image_size, tower.preprocess_cfg
    about = (max(size) if isinstance(size, tuple) else size, tuple(shown["mean"]), tuple(shown["std"]))
    if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None or tower.pool_type == "none":
        return Vision(model.eval(), str(path), identity, *about, model.encode_image, None)
    vit = _OpenClipVit(tower)
    tokens = Tokens(
        vit.tokens, vit.before_norm, 1, True, _square(str(path), tower.patch_size), tower.conv1.out_channels
    )
    return Vision(vit, str(path), identity, *about, vit.embed, tokens)


class _OpenClipVit(torch.nn.Module):
    """open_clip's VisionTransformer, whose own forward pass knows one size of images."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 1 + N, D): the class token, then the patches."""
        return self._at_size_of(images, "tokens")

    def before_norm(self, images: Tensor) -> Tensor:
        return self._at_size_of(images, "before norm")

    def embed(self, images: Tensor) -> Tensor:
        return self._at_size_of(images, "embedding")

    def _at_size_of(self, images: Tensor, kind: str) -> Tensor:
        patch = self.tower.patch_size
        grid = (images.shape[2] // patch[0], images.shape[3] // patch[1])
        places = _resampled(self.tower.positional_embedding, self.tower.grid_size, grid)
        return torch.func.functional_call(self, {"tower.positional_embedding": places}, (images, kind))

    def forward(self, images: Tensor, kind: str) -> Tensor:
        if kind == "embedding":
            return self.tower(images)
        found = self.tower.forward_intermediates(
            images,
            indices=1,
            normalize_intermediates=kind == "tokens",
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat((found["image_intermediates_prefix"][0], found["image_intermediates"][0]), dim=1)


def _resampled(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(1 + new patches, D) of (1 + old patches, D): the class token's stays, as open_clip does it when it loads."""
    if old == new:
        return positions
    grid = positions[1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat((positions[:1], grid.permute(0, 2, 3, 1).flatten(1, 2)[0]))


def _square(model: str, patch: tuple[int, int]) -> int:
    if patch[0] != patch[1]:
        raise InputError(f"--model {model}: patches of {patch[0]} x {patch[1]} pixels; they must be square")
    return patch[0]
