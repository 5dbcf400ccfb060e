"""Small data sets with masks, and encoders of patches that need no network."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

CLASSES = ("background", "disc", "bar", "star")
COLOURS = np.array([(20, 30, 40), (220, 40, 40), (40, 220, 40), (60, 60, 230)], np.uint8)
Members = dict[str, bytes]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sample(mask: np.ndarray, image: np.ndarray | None = None) -> Members:
    """An image in the colours of its classes, void in white, with its mask."""
    colours = np.vstack((COLOURS, np.full((252, 3), 255, np.uint8)))
    return {"png": png(colours[mask] if image is None else image), "seg.png": png(mask)}


def masks(number: int, size: int = 16, *, seed: int = 0, void: bool = True) -> list[np.ndarray]:
    """Blocks of 4 x 4 pixels of random classes; some are void."""
    rng = np.random.default_rng(seed)
    values = np.array([0, 1, 2, 3, 255 if void else 0], np.uint8)
    coarse = values[rng.integers(0, len(values), (number, size // 4, size // 4))]
    return list(coarse.repeat(4, 1).repeat(4, 2))


def write_split(root: Path, split: str, samples: Sequence[Members], *, per_shard: int = 3) -> None:
    (root / split).mkdir(parents=True)
    for shard, start in enumerate(range(0, len(samples), per_shard)):
        with tarfile.open(root / split / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, members in enumerate(samples[start : start + per_shard], start):
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{split}{number:04d}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def write_set(
    root: Path, train: Sequence[Members], test: Sequence[Members], classes: Sequence[str] | None = CLASSES
) -> Path:
    root.mkdir(parents=True)
    if classes is not None:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    write_split(root, "train", train)
    write_split(root, "test", test)
    return root


def small_set(root: Path, train: int = 7, test: int = 5) -> Path:
    """Colours tell the class, so that an encoder of colours can be right everywhere."""
    return write_set(root, [sample(m) for m in masks(train, seed=1)], [sample(m) for m in masks(test, seed=2)])


class ColourPatches:
    """A model whose tokens are the mean colours of patches."""

    name, identity, device, precision, width = "colours", "none", torch.device("cpu"), "fp32", 3

    def __init__(self, patch_size: int = 1) -> None:
        self.patch_size = patch_size
        self.batches: list[int] = []

    def squash(self, image: Image.Image, size: int) -> Tensor:
        pixels = np.array(image.resize((size, size), Image.Resampling.NEAREST))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 128 - 1

    def tokens(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return torch.nn.functional.avg_pool2d(images, self.patch_size).permute(0, 2, 3, 1)


def camvid() -> Path:
    """The real set, or a skip that says how to have it."""
    root = Path(os.environ.get("PINECO_DATA", "nowhere")) / "segmentation" / "camvid"
    if not root.is_dir():
        pytest.skip("needs segmentation/camvid in the folder that PINECO_DATA names")
    return root
