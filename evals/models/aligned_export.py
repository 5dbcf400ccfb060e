"""What an aligned model's export says of itself: perceptual.json and the head beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pineco.data_pipeline.errors import InputError

Features = Literal["cls", "embedding", "cls_patch"]

DESCRIPTION_FILE, HEAD_FILE, SCHEMA = "perceptual.json", "head.safetensors", 2


@dataclass(frozen=True)
class Described:
    """One backbone."""

    folder: str  # below the export
    features: Features


@dataclass(frozen=True)
class Description:
    """How features come about: of each member in order, one after the other, then through the head."""

    members: tuple[Described, ...]
    hidden: int | None  # of the head, where there is one
    width: int | None
    image_size: int
    mean_centre: bool


class FeatureHead(torch.nn.Module):
    """x + fc2(relu(fc1(x))): (B, D) -> (B, D)."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        hidden, self.width = weights["fc1.weight"].shape
        self.fc1 = torch.nn.utils.skip_init(torch.nn.Linear, self.width, hidden)  # or it would draw random numbers
        self.fc2 = torch.nn.utils.skip_init(torch.nn.Linear, hidden, self.width)
        self.load_state_dict(weights)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.relu(self.fc1(x)))


def read_description(path: Path) -> Description:
    """What perceptual.json says, checked: it may come from anywhere."""
    where = path / DESCRIPTION_FILE
    try:
        data = json.loads(where.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: no JSON ({error}); export the model again") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        told = f"{where}: no description of schema {SCHEMA}"
        raise InputError(f"{told}; align the model again (in schema 1 tokens were read after the last norm)")
    try:
        members = tuple(_described(one) for one in data["members"])
        head = data["head"]
        hidden, width = (None, None) if head is None else (_natural(head["hidden"]), _natural(head["width"]))
        if not members or not isinstance(data["mean_centre"], bool):
            raise ValueError("it has no members, or mean_centre is no truth value")
        return Description(members, hidden, width, _natural(data["image_size"]), data["mean_centre"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: damaged ({type(error).__name__}: {error}); export the model again") from None


def _described(one: dict[str, Any]) -> Described:
    folder, features = one["folder"], one["features"]
    if not isinstance(folder, str) or Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise ValueError(f"folder {folder!r:.60} must be relative and stay inside")
    if features not in get_args(Features):
        raise ValueError(f"features {features!r:.60} are none of {', '.join(get_args(Features))}")
    return Described(folder, features)


def _natural(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r:.60} is no whole number from 1 on")
    return value


def read_head(path: Path, hidden: int, width: int | None) -> FeatureHead:
    """Raises InputError where it is not as the description says. hidden: features of its layer; width: D."""
    where = path / HEAD_FILE
    try:
        head = FeatureHead(load_file(where))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: no head of {DESCRIPTION_FILE}'s, or damaged ({reason})") from None
    if (head.fc1.out_features, head.width) != (hidden, width):
        found = f"{head.width} features and {head.fc1.out_features} hidden"
        raise InputError(f"{where}: of {found}; {DESCRIPTION_FILE} says {width} and {hidden}; export the model again")
    return head
