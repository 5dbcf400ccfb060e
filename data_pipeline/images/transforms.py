"""From decoded pixels to the square the encoder sees; uint8 in, uint8 out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What a training image may suffer. The defaults are open_clip's."""

    crop_scale: tuple[float, float] = (0.9, 1.0)  # share of the image's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: float = 0.0  # probability of a horizontal flip


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) uint8 with channels last in memory, which the resize is fastest on."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def augment(image: Tensor, size: int, settings: Augmentation, random: np.random.Generator) -> Tensor:
    """A random resized crop, perhaps flipped: (3, H, W) uint8 -> (3, size, size) uint8."""
    box = random_crop_box(image.shape[1], image.shape[2], settings, random)
    crop = resize_crop(image, box, size)
    return crop.flip(2) if random.random() < settings.flip else crop


def resize_square(image: Tensor, size: int) -> Tensor:
    """The whole image squashed to (3, size, size) uint8: how DreamSim feeds its triplets."""
    return resize_crop(image, (0, 0, image.shape[1], image.shape[2]), size)


def resize_crop(image: Tensor, box: Box, size: int) -> Tensor:
    """The box of the image as (3, size, size) uint8, antialiased bicubic.

    Within 2/255 of Pillow's where that begins with the rows, too; where it begins with the columns (tall images),
    rounding between the passes differs by up to 4/255 on photographs, 0.2/255 on average.
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return crop
    return F.interpolate(crop[None], (size, size), mode="bicubic", antialias=True, align_corners=False)[0]


def random_crop_box(height: int, width: int, settings: Augmentation, random: np.random.Generator) -> Box:
    """The crop of Inception-style training: area and log aspect ratio uniform; after ten misses the central one."""
    low, high = (math.log(r) for r in settings.crop_ratio)
    for _ in range(10):
        area = height * width * random.uniform(*settings.crop_scale)
        ratio = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    return _central_box(height, width, settings.crop_ratio)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w
