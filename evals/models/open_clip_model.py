"""Models of open_clip: export directories, names with a tag or a file, names without weights."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.model import Model, TextTower, TokenReader, file_identity, loading
from pineco.evals.models.short_text import ShortText

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
RANDOM_SEED = 0  # of a model without weights, so that a chance-level baseline is the same everywhere

log = logging.getLogger(__name__)


def load_open_clip(address: str) -> Model:
    """NAME:WEIGHTS, where WEIGHTS is a tag or a file, or NAME, which has random weights; raises InputError."""
    import open_clip  # seconds: only who loads such a model pays

    name, _, weights = address.partition(":")
    known = open_clip.list_models()
    if name.replace("/", "-") not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        kinds = "neither a directory, timm:NAME[:WEIGHTS] nor an open_clip model"
        raise InputError(f"--model {address}: {kinds}; nearest model is {near}")
    name = name.replace("/", "-")
    if not weights:
        log.warning("%s: no weights were named, so they are RANDOM (seed %d): expect chance", name, RANDOM_SEED)
        return _create(f"{name} (random weights)", f"open_clip:{name}:random-seed-{RANDOM_SEED}", name)
    if Path(weights).is_file():
        return _create(address, file_identity(Path(weights)), name, weights)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights not in tags:
        raise InputError(f"--model {address}: no weights file or tag {weights!r}; tags: {', '.join(tags) or 'none'}")
    return _create(address, f"open_clip:{name}:{weights}", name, weights)


def load_open_clip_directory(path: Path) -> Model:
    """A directory with CONFIG_FILE and WEIGHTS_FILE; raises InputError where the weights are missing or do not fit."""
    if not (path / WEIGHTS_FILE).is_file():
        raise InputError(f"--model {path}: holds no {WEIGHTS_FILE}; an export directory has it beside {CONFIG_FILE}")
    return _create(str(path), file_identity(path / WEIGHTS_FILE), f"local-dir:{path}")


def _create(name: str, identity: str, open_clip_name: str, weights: str | None = None) -> Model:
    """On the CPU. name, identity: the Model's. weights: a tag or a file; None for directories and random weights.

    Its parameters are not frozen: with requires_grad off, PyTorch takes another path through the vision tower and
    features differ from stock open_clip's in the last bits.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    with loading(name, "open_clip"):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(RANDOM_SEED)  # torch.manual_seed would reseed CUDA as well
            module: Any = open_clip.create_model(open_clip_name, weights, weights_only=True).eval()
        config = PreprocessCfg(**module.visual.preprocess_cfg)
        preprocess = image_transform_v2(config, is_train=False)
    size, vit = config.size, _AnySize(module.visual) if _is_plain_vit(module.visual) else None
    return Model(
        name=name,
        identity=identity,
        module=module,
        preprocess=preprocess,
        image_size=size if isinstance(size, int) else max(size),
        mean=tuple(config.mean),
        std=tuple(config.std),
        forward_image=module.encode_image if vit is None else vit.embed,
        token_reader=None if vit is None else vit.token_reader(),
        text_tower=TextTower(_Tokenizer(name, open_clip_name), ShortText(module).encode),
    )


class _Tokenizer:
    """open_clip's tokenizer of a model, loaded with the first texts: it may be a download, which images do not need."""

    def __init__(self, name: str, open_clip_name: str) -> None:
        self._name, self._open_clip_name = name, open_clip_name

    def __call__(self, texts: list[str]) -> Tensor:
        return self._tokenizer(texts)

    @cached_property
    def _tokenizer(self) -> Callable[[list[str]], Tensor]:
        import open_clip

        with loading(self._name, "open_clip"):
            tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(self._open_clip_name)
        return tokenizer


def _is_plain_vit(tower: Any) -> bool:
    """False for ResNets, timm's towers and towers that pool by attention."""
    from open_clip.transformer import VisionTransformer

    return isinstance(tower, VisionTransformer) and tower.attn_pool is None and tower.pool_type != "none"


class _AnySize(torch.nn.Module):
    """open_clip's VisionTransformer, whose own forward pass knows one size of images."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def token_reader(self) -> TokenReader:
        return TokenReader(self.tokens, 1, True, self.tower.patch_size, self.tower.conv1.out_channels)

    def embed(self, images: Tensor) -> Tensor:
        """(B, E) of (B, 3, H, W)."""
        return self._at_size_of(images, "embedding")

    def tokens(self, images: Tensor, norm: bool) -> Tensor:
        """(B, 1 + N, D): the class token, then the patches."""
        return self._at_size_of(images, "normed tokens" if norm else "tokens")

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
            normalize_intermediates=kind == "normed tokens",
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
