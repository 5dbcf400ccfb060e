"""Towers from open_clip's model configs, and the directory that stock open_clip loads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.models.export import OPEN_CLIP, ExportFormat

MODEL_CONFIGS = Path(__file__).parent / "model_configs"
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD

_SCALARS = ("logit_scale", "logit_bias")

open_clip.add_model_config(MODEL_CONFIGS)


def model_config(name: str) -> dict[str, Any]:
    """The open_clip config of a model: embed_dim, vision_cfg, text_cfg.

    The logit scale becomes a tensor of one element, because DeepSpeed cannot broadcast one of no dimension.
    """
    config = open_clip.get_model_config(_register(name))
    if config is None:
        ours = ", ".join(sorted(p.stem for p in MODEL_CONFIGS.glob("*.json")))
        raise InputError(f"model {name!r}: no open_clip model name, none of ours ({ours}), no path of a .json config")
    return {**config, "nonscalar_logit_scale": True}


def _register(name: str) -> str:
    """The name under which open_clip knows a model, after a config given by its path has been registered."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        open_clip.add_model_config(path)
        return path.stem
    return name


def build_clip(name: str, seed: int) -> open_clip.CLIP:
    """A randomly initialised CLIP; the same seed gives the same weights and leaves the global generator alone.

    A config whose text_cfg.hf_model_name is the folder of a language model starts its text tower from that model.
    """
    model_config(name)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        return open_clip.create_model(_register(name), load_weights=False, nonscalar_logit_scale=True)


def load_text_tower(clip: Any, source: str) -> None:
    """Puts the text tower of another CLIP of open_clip into this one; its image tower and logit scale stay.

    source: an export directory, or a .safetensors file. Raises InputError where it is none, or has another text tower.
    """
    path = Path(source)
    path = path / Path(OPEN_CLIP[1]).name if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        raise InputError(f"objective.text_weights {source}: no .safetensors file, and no export directory")
    try:
        given = load_file(path)
    except Exception as error:  # safetensors raises kinds of its own
        raise InputError(f"objective.text_weights {path}: cannot be read: {error}") from None
    own = {k: v for k, v in clip.state_dict().items() if not k.startswith("visual.") and k not in _SCALARS}
    wrong = [k for k, v in own.items() if k not in given or given[k].shape != v.shape]
    if wrong:
        raise InputError(f"objective.text_weights {path}: of another text tower, see {wrong[0]}")
    clip.load_state_dict({**clip.state_dict(), **{k: given[k] for k in own}})


def image_size(name: str) -> int:
    """Side of the square that the image tower sees, in pixels."""
    return int(model_config(name)["vision_cfg"]["image_size"])


class Normalise(nn.Module):
    """(B, 3, H, W) uint8 on the device -> float32, zero mean and unit variance by the statistics CLIP uses."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std


def open_clip_export(name: str) -> ExportFormat:
    """The directory that stock open_clip loads by `local-dir:`."""
    preprocess = {
        "size": image_size(name),
        "mode": "RGB",
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = json.dumps({"model_cfg": model_config(name), "preprocess_cfg": preprocess}, indent=2)
    return ExportFormat(*OPEN_CLIP, config)


class _quiet:  # noqa: N801 - used like a function
    """open_clip warns on the root logger that a model has no pretrained weights: here that is the point."""

    def __enter__(self) -> None:
        self.level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self.level)


def tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """Captions -> (B, L) int64, L the context length of the model's text tower."""
    model_config(name)
    return open_clip.get_tokenizer(_register(name))
