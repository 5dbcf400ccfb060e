"""Backbones that give patch features: timm's vision transformers, and the image tower of a CLIP of open_clip."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.models.clip import MEAN, STD, build_clip, open_clip_export
from pineco.pretrain.models.clip import image_size as clip_image_size
from pineco.pretrain.models.export import OPEN_CLIP, TIMM, ExportFormat

PREFIX = "timm:"


class Backbone(ABC):
    """What NeCo needs of a model; `module` is what is trained and exported."""

    module: Any
    export: ExportFormat
    patch: int  # pixels of a patch's side
    width: int  # D
    mean: tuple[float, ...]  # of pixels in [0, 1], by channel
    std: tuple[float, ...]

    @abstractmethod
    def tokens(self, module: Any, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised, H and W multiples of `patch` -> (B, D, h, w), after the last norm.

        module: this one's, or a copy of it.
        """

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """In the order in which they are passed."""

    @abstractmethod
    def attention_inputs(self, module: Any) -> tuple[nn.Module, Any]:
        """(the module of the last block that attends, what it attends with: (B, N, D) -> (B, heads, N), sums of 1).

        N counts the tokens before the patches too. Raises InputError where no class token attends.
        """

    def tokens_and_attention(self, module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens, and (B, h, w) the last block's attention of the class token to them, averaged over heads."""
        attending, weights = self.attention_inputs(module)
        with _input_of(attending) as seen:
            tokens = self.tokens(module, images)
        return tokens, weights(seen[0]).float().mean(dim=1)[:, -tokens[0, 0].numel() :].view(-1, *tokens.shape[2:])

    def train_last(self, blocks: int) -> None:
        """Freezes all but the last so many blocks, as the original does: norms and embeddings outside are frozen."""
        if not 1 <= blocks <= len(self.blocks()):
            raise InputError(f"objective.trainable_blocks is {blocks}; this backbone has {len(self.blocks())}")
        self.module.requires_grad_(False)
        for block in self.blocks()[-blocks:]:
            block.requires_grad_(True)


class TimmBackbone(Backbone):
    """A VisionTransformer of timm; other sizes than `image_size` resample its position embeddings in every pass."""

    def __init__(
        self, name: str, seed: int, *, image_size: int, drop_path: float, shown: Mapping[str, Any] | None = None
    ) -> None:
        """shown: what the folder of the weights says of their pixels, instead of timm."""
        import timm
        from timm.data import resolve_model_data_config
        from timm.models import VisionTransformer

        if not timm.is_model(name):
            raise InputError(f"model {PREFIX}{name}: timm has no such model; see timm.list_models()")
        options: dict[str, Any] = {
            "num_classes": 0,
            "img_size": image_size,
            "dynamic_img_size": True,
            "drop_path_rate": drop_path,
        }
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.module = timm.create_model(name, **options)
        except TypeError:  # it knows no sizes of images
            self.module = None
        except RuntimeError as error:  # a tag behind the dot that it does not know
            raise InputError(f"model {PREFIX}{name}: timm cannot build it: {_one_line(error)}") from None
        if not isinstance(self.module, VisionTransformer):
            raise InputError(f"model {PREFIX}{name}: no vision transformer with a grid of patches")
        for pool in (self.module.attn_pool, self.module.fc_norm):
            if pool is not None:
                pool.requires_grad_(False)  # patch features are read before it
        self.patch, self.width = self.module.patch_embed.patch_size[0], self.module.embed_dim
        config = resolve_model_data_config(self.module) | dict(shown or {})
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.export = ExportFormat(*TIMM, timm_config(name, self.module, image_size, config))

    def tokens(self, module: Any, images: Tensor) -> Tensor:
        found = module.forward_features(images)[:, module.num_prefix_tokens :]
        h, w = (side // self.patch for side in images.shape[2:])
        return found.transpose(1, 2).unflatten(2, (h, w))

    def blocks(self) -> list[nn.Module]:
        return list(self.module.blocks)

    def attention_inputs(self, module: Any) -> tuple[nn.Module, Any]:
        from timm.models.vision_transformer import Attention

        attention = getattr(module.blocks[-1], "attn", None)
        if not module.has_class_token or type(attention) is not Attention:
            what = "another kind of attention" if module.has_class_token else "no class token"
            raise InputError(f"this backbone has {what}, whose foreground is not known; set objective.mask to all")

        def weights(x: Tensor) -> Tensor:
            q, k, _ = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            q, k = attention.q_norm(q), attention.k_norm(k)
            return (q[:, :, :1] * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]

        return attention, weights


class ClipBackbone(Backbone):
    """The image tower of an open_clip CLIP; the whole CLIP is exported, so that it loads and reads as before."""

    def __init__(self, name: str, seed: int, *, drop_path: float) -> None:
        if drop_path:
            raise InputError(f"objective.drop_path is {drop_path}: open_clip's towers have none; set it to 0")
        self.module = build_clip(name, seed)
        self.module.requires_grad_(False)
        self.module.visual.requires_grad_(True)
        visual = self.module.visual
        if getattr(visual, "positional_embedding", None) is None or not hasattr(visual, "transformer"):
            raise InputError(f"model {name}: its image tower is no vision transformer with a grid of patches")
        if visual.attn_pool is not None:
            raise InputError(f"model {name}: its image tower pools by attention, so its patch tokens are not known")
        if visual.proj is not None:
            visual.proj.requires_grad_(False)  # patch features are read before it
        self.patch, self.width = visual.conv1.kernel_size[0], visual.conv1.out_channels
        self.mean, self.std = MEAN, STD
        self.export = open_clip_export(name)

    def tokens(self, module: Any, images: Tensor) -> Tensor:
        h, w = (side // self.patch for side in images.shape[2:])
        places = resample_positions(module.visual.positional_embedding, (h, w))
        found = functional_call(_PatchTokens(module.visual), {"visual.positional_embedding": places}, (images,))
        return found.transpose(1, 2).unflatten(2, (h, w))

    def blocks(self) -> list[nn.Module]:
        return list(self.module.visual.transformer.resblocks)

    def attention_inputs(self, module: Any) -> tuple[nn.Module, Any]:
        block = module.visual.transformer.resblocks[-1]

        def weights(x: Tensor) -> Tensor:
            attention = block.attn
            q, k, _ = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
            q, k = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in (q, k))
            return (q[:, :, :1] * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]

        return block.attn, weights


class _PatchTokens(nn.Module):
    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        before = self.visual.output_tokens
        self.visual.output_tokens = True
        try:
            _, tokens = self.visual(images)
        finally:
            self.visual.output_tokens = before
        return tokens


def resample_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1 + n * n, D) of a class token and a square grid -> (1 + h * w, D), bicubic; itself where nothing changes."""
    side = round((len(positions) - 1) ** 0.5)
    if (side, side) == grid:
        return positions
    cells = positions[1:].T.unflatten(1, (side, side))[None].float()
    cells = F.interpolate(cells, grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat((positions[:1], cells[0].flatten(1).T.to(positions.dtype)))


def build_backbone(name: str, seed: int, *, weights: str | None, image_size: int, drop_path: float) -> Backbone:
    """timm:NAME, or an open_clip model; random, or with the weights of a .safetensors file or an export directory.

    Raises InputError for a model that is not known, a size that does not fit it, and for weights that do not fit it in
    every tensor.
    """
    backbone: Backbone
    if name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
        shown = _shown(weights, name)
        backbone = TimmBackbone(name, seed, image_size=image_size, drop_path=drop_path, shown=shown)
        if image_size % backbone.patch:
            told = f"objective.image_size is {image_size}"
            raise InputError(f"{told}; {PREFIX}{name} needs a multiple of its patch, {backbone.patch} pixels")
    else:
        backbone = ClipBackbone(name, seed, drop_path=drop_path)
        if (own := clip_image_size(name)) != image_size:
            told = f"objective.image_size is {image_size}, {name} sees {own} pixels"
            raise InputError(f"{told}; pass objective.image_size={own}")
    if weights is not None:
        _load(backbone.module, weights)
    return backbone


def _load(module: Any, weights: str) -> None:
    path = Path(weights)
    files = [path] if path.is_file() else [path / Path(name).name for _, name in (TIMM, OPEN_CLIP)]
    found = next((file for file in files if file.is_file()), None)
    if found is None or found.suffix != ".safetensors":
        mend = "pineco weights import makes one of published weights"
        raise InputError(f"objective.weights {weights}: no .safetensors file, and no export directory; {mend}")
    try:
        missing, unexpected = module.load_state_dict(_resized(load_file(found), module), strict=False)
    except (SafetensorError, RuntimeError) as error:  # a damaged file; tensors of other shapes
        raise InputError(f"objective.weights {found}: damaged, or of another model: {_one_line(error)}") from None
    unexpected = [key for key in unexpected if not key.startswith(("head.", "fc_norm."))]  # timm's classifier
    if missing or unexpected:
        what = f"lacks {', '.join(missing[:3]) or 'nothing'}, has unknown {', '.join(unexpected[:3]) or 'nothing'}"
        raise InputError(f"objective.weights {found}: of another model: {what}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _resized(tensors: Mapping[str, Tensor], module: Any) -> dict[str, Tensor]:
    """Position embeddings of timm made for another size, resampled; the rest as it is."""
    own = module.state_dict()
    given, wanted = tensors.get("pos_embed"), own.get("pos_embed")
    if given is None or wanted is None or given.shape == wanted.shape:
        return dict(tensors)
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if module.no_embed_class else module.num_prefix_tokens
    size = module.patch_embed.grid_size
    return {**tensors, "pos_embed": resample_abs_pos_embed(given, list(size), num_prefix_tokens=prefix)}


def _shown(weights: str | None, name: str) -> dict[str, Any]:
    """How pixels are normalised, of an export directory of timm's; nothing where the weights are none.

    Raises InputError for another architecture: two may differ in no shape, as CLIP's with and without QuickGELU.
    """
    path = Path(weights or "") / Path(TIMM[0]).name
    if weights is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        architecture, shown = content["architecture"], content.get("pretrained_cfg", {})
        found = {key: tuple(float(value) for value in shown[key]) for key in ("mean", "std") if key in shown}
        if any(len(values) != 3 for values in found.values()):
            raise ValueError("mean and std have three values")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"objective.weights {path}: no config of timm ({_one_line(error)}); export it again") from None
    if architecture != name.partition(".")[0]:
        raise InputError(f"objective.weights {path}: of {architecture!r:.80}, and the recipe's model is {PREFIX}{name}")
    return found


def timm_config(name: str, module: Any, image_size: int, config: Mapping[str, Any]) -> str:
    """config.json in the format that `timm.create_model("local-dir:...")` reads."""
    pretrained = {
        "input_size": [3, image_size, image_size],
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "num_classes": 0,
        "first_conv": module.pretrained_cfg.get("first_conv"),
        "classifier": module.pretrained_cfg.get("classifier"),
    }
    content = {
        "architecture": name.partition(".")[0],
        "num_classes": 0,
        "num_features": module.num_features,
        "pretrained_cfg": pretrained,
        "model_args": {"img_size": image_size, "dynamic_img_size": True},
    }
    return json.dumps(content, indent=2)


@contextmanager
def _input_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first argument of each call of a module, while this lasts."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(_first(args, kwargs)), with_kwargs=True
    )
    try:
        yield seen
    finally:
        handle.remove()


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found: Tensor = args[0] if args else kwargs["query"]
    return found
