"""LoRA on the query, key and value matrices of vision transformers (arXiv 2106.09685); the only file that imports peft.

Published for perceptual alignment: rank 16, alpha 32, dropout 0.2, on `qkv` alone (arXiv 2306.09344, 2410.10817).
"""

from __future__ import annotations

import json
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.recipe.objectives import LoraSettings

TARGETS = r"(.*\.)?attn\.qkv"
CLIP_TARGETS = r"(.*\.)?visual\.transformer\.resblocks\.\d+\.attn"  # nn.MultiheadAttention, in stock open_clip
_NAME, _BASE, _MATRICES = "default", ".base_layer.", ("lora_A", "lora_B")
_RENAMED = {".attn.qkv.weight": ".attn.in_proj_weight", ".attn.qkv.bias": ".attn.in_proj_bias"}
_RENAMED |= {f".attn.proj.{kind}": f".attn.out_proj.{kind}" for kind in ("weight", "bias")}
_VISUAL = "visual.transformer.resblocks."


class QkvAttention(nn.Module):
    """Self-attention as nn.MultiheadAttention computes it, with its three matrices as one layer that LoRA can wrap.

    open_clip's towers use nn.MultiheadAttention, around which peft cannot adapt the three matrices alone.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, width = attention.num_heads, attention.embed_dim
        self.qkv = nn.Linear(width, 3 * width, device="meta")
        self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        self.proj = attention.out_proj

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """(B, N, D), thrice the same -> (B, N, D), and no weights."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.proj(found.transpose(1, 2).flatten(2)), None


def split_attention(clip: Any) -> None:
    """Gives every block of a CLIP's image tower a `qkv` layer; what it computes stays."""
    for block in clip.visual.transformer.resblocks:
        if isinstance(block.attn, nn.MultiheadAttention):
            block.attn = QkvAttention(block.attn)


def add_lora(module: nn.Module, settings: LoraSettings, seed: int) -> None:
    """Wraps every `attn.qkv` in place and freezes all else. The second matrix is zero: nothing changes at first.

    The global random state is left alone. Raises InputError where there is no such layer.
    """
    if not any(name.endswith("attn.qkv") for name, _ in module.named_modules()):
        raise InputError("objective.tune is lora, but the model has no attn.qkv to adapt; pass objective.tune=full")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_config(settings), module, adapter_name=_NAME)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(f".{matrix}." in name for matrix in _MATRICES))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of the module as if no adapter were there, with W + (alpha / r) B A where one is."""
    plain = {name.replace(_BASE, "."): tensor for name, tensor in module.state_dict().items() if "lora_" not in name}
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLinear):
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + layer.get_delta_weight(_NAME)
    return {name: tensor.detach() for name, tensor in plain.items()}


def load_base(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts the weights of the bare model below its adapters, which stay. Raises RuntimeError where they do not fit."""
    own = module.state_dict()
    adapters = {name: tensor for name, tensor in own.items() if "lora_" in name}
    below = {name.replace(_BASE, "."): name for name in own if name not in adapters}
    named = {below.get(name, name): tensor for name, tensor in weights.items()}
    module.load_state_dict({**named, **adapters}, strict=True)


def adapter_files(module: nn.Module, settings: LoraSettings, *, clip: bool = False) -> dict[str, bytes]:
    """adapter_config.json and adapter_model.safetensors, which peft loads around the bare model of timm or open_clip.

    clip: whether the module went through `split_attention`. Around the stock nn.MultiheadAttention peft adapts the
    projection of the outputs, too, whose matrices are zero here, and takes no dropout, which counts in training alone.
    """
    tensors = {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in module.state_dict().items()
        if "lora_" in name
    }
    config = {**_config(settings).to_dict(), "inference_mode": True}
    if clip:
        tensors = _around_attention(tensors)
        config |= {"target_modules": CLIP_TARGETS, "lora_dropout": 0.0}
    return {
        "adapter_config.json": json.dumps(config, indent=2, sort_keys=True, default=_plain).encode(),
        "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
    }


def _around_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of `attn.qkv` as peft names them around nn.MultiheadAttention."""
    named = {name.replace(".attn.qkv.", ".attn."): tensor for name, tensor in tensors.items()}
    for name, tensor in list(named.items()):
        if name.endswith(".attn.lora_A.weight"):  # (r, D)
            outputs = name.removesuffix("lora_A.weight") + "base_layer.out_proj"
            named[f"{outputs}.lora_A.weight"] = torch.zeros_like(tensor)
            named[f"{outputs}.lora_B.weight"] = torch.zeros_like(tensor).T.contiguous()
    return named


def as_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names after `split_attention` -> open_clip's."""
    return {_rename(name, _RENAMED): tensor for name, tensor in state.items()}


def as_split(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names -> those after `split_attention`."""
    back = {new: old for old, new in _RENAMED.items()}
    return {_rename(name, back): tensor for name, tensor in state.items()}


def _rename(name: str, endings: dict[str, str]) -> str:
    for old, new in endings.items():
        if name.startswith(_VISUAL) and name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _config(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        target_modules=TARGETS,
    )


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
