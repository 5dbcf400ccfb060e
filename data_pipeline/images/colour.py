"""Colour augmentation of a crop: jitter, grey, blur, as in SimCLR (2002.05709), which NeCo uses as well.

In numpy, which works in the calling thread only: sums are in one order whatever torch's number of threads is, and the
threads of the loader do not each start threads of their own. In float32 and rounded once at the end, where the
original rounds to 8 bits after every step. Measured for 224 x 224 against torchvision's functions on uint8 tensors:
hue 0.27 ms instead of 2.2, blur 0.2 to 0.7 ms instead of 2.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pineco.data_pipeline.images.crops import MultiCrop

Step = Literal["brightness", "contrast", "saturation", "hue"]
JITTER: tuple[Step, ...] = ("brightness", "contrast", "saturation", "hue")
PIECE = 1 << 15  # pixels whose hue is turned at a time
SIGMA = (0.1, 2.0)  # pixels of the crop
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, what Pillow's mode L is


@dataclass(frozen=True)
class ColourChange:
    """What happens to one crop, in this order."""

    jitter: tuple[tuple[Step, float], ...] = ()  # step and its factor, or its turn of the colour circle
    grey: bool = False
    sigma: float | None = None  # of the blur, pixels


def draw_change(settings: MultiCrop, random: np.random.Generator) -> ColourChange:
    """Takes the same draws whatever comes of them, so that no setting changes what the others decide."""
    jitters, greys, blurs = random.random(3) < (settings.jitter_p, settings.grey_p, settings.blur_p)
    order = np.argsort(random.random(len(JITTER)), kind="stable")
    places = random.uniform(-1, 1, len(JITTER))
    amounts = {step: _amount(settings, step, float(place)) for step, place in zip(JITTER, places, strict=True)}
    sigma = float(random.uniform(*SIGMA))
    jitter = tuple((JITTER[i], amounts[JITTER[i]]) for i in order.tolist()) if jitters else ()
    return ColourChange(jitter, bool(greys), sigma if blurs else None)


def change_colour(crop: np.ndarray, change: ColourChange) -> np.ndarray:
    """(3, H, W) uint8 -> (3, H, W) uint8; the crop itself where nothing changes."""
    if change == ColourChange():
        return crop
    image = crop.astype(np.float32, order="C")
    for step, amount in change.jitter:
        _jitter(image, step, amount)
    if change.grey:
        image[:] = luma(image)
    if change.sigma is not None:
        blur(image, change.sigma)
    image += 0.5  # all values are in [0, 255], so that cutting the fraction then rounds
    return image.astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (H, W) float32, the brightness that the eye sees."""
    red, green, blue = image
    grey = red * np.float32(LUMA[0])
    grey += green * np.float32(LUMA[1])
    grey += blue * np.float32(LUMA[2])
    return grey


def turn_hue(image: np.ndarray, turn: float) -> None:
    """Moves the hue of every pixel of a (3, H, W) float32 by `turn` of the colour circle.

    Piece by piece, because memory that is asked for and given back in megabytes costs more than the work in it: with
    crops of 518 pixels 3.0 ms a sample instead of 7.5.
    """
    flat = image.reshape(3, -1)
    for first in range(0, flat.shape[1], PIECE):
        _turn_piece(flat[:, first : first + PIECE], turn)


def blur(image: np.ndarray, sigma: float) -> None:
    """Blurs a (3, H, W) float32 by a Gaussian of this standard deviation in pixels; its border is repeated outside.

    One pass a direction, out to three standard deviations. The original is Pillow's GaussianBlur, which has no kernel
    size to be set: it blurs three times by a box.
    """
    radius = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (weights / (weights[0] + 2 * weights[1:].sum())).astype(np.float32)
    for channel in image:  # one by one, which the cache holds: a third of the time
        padded = np.pad(channel, radius, mode="edge")
        channel[:] = _weigh_lines(_weigh_lines(padded.T, weights).T, weights)


def _amount(settings: MultiCrop, step: Step, place: float) -> float:
    """place: in [-1, 1] of what the setting allows."""
    if step == "hue":
        return place * settings.hue
    reach = getattr(settings, step)
    low, high = max(0.0, 1 - reach), 1 + reach
    return low + (place + 1) / 2 * (high - low)


def _jitter(image: np.ndarray, step: Step, amount: float) -> None:
    """Writes into `image`, which is in [0, 255] before and after."""
    if step == "hue":
        turn_hue(image, amount)
        return
    other: np.ndarray | float = 0.0
    if step == "contrast":
        other = float(np.dot(image.mean(axis=(1, 2)), LUMA))
    elif step == "saturation":
        other = luma(image)
    image *= np.float32(amount)
    if step != "brightness":
        image += other * np.float32(1 - amount)
    np.clip(image, 0, 255, out=image)


def _turn_piece(image: np.ndarray, turn: float) -> None:
    """Writes into (3, n).

    Through HSV and back: the lowest channel and the chroma stay, so that, of a hue of h sixths in [0, 6), red is
    lowest + chroma clip(|h - 3| - 1, 0, 1), green and blue are lowest + chroma clip(2 - |h - c|, 0, 1), c = 2 and 4.
    """
    red, green, blue = image
    value, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    chroma = value - lowest
    scale = 1 / np.maximum(chroma, np.float32(1e-6))
    sixths = _choose(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    sixths = _choose(value == red, (green - blue) * scale, sixths)
    sixths += np.float32(6 * turn)
    sixths -= 6 * np.floor(sixths * np.float32(1 / 6))
    for channel, (centre, sign, peak) in zip(image, ((3, 1, -1), (2, -1, 2), (4, -1, 2)), strict=True):
        part = np.subtract(sixths, np.float32(centre), out=channel)
        np.abs(part, out=part)
        part *= np.float32(sign)
        part += np.float32(peak)
        np.clip(part, 0, 1, out=part)
        part *= chroma
        part += lowest


def _choose(where: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """np.where for finite numbers, up to a rounding. That one branches at every pixel: up to ten times the time."""
    one -= two
    one *= where.astype(np.float32)
    one += two
    return one


def _weigh_lines(padded: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R + n + R, m) -> (n, m): each line and its R = len(weights) - 1 neighbours on either side, weighed."""
    radius = len(weights) - 1
    n = len(padded) - 2 * radius
    total = padded[radius : radius + n] * weights[0]
    both = np.empty_like(total)
    for distance in range(1, radius + 1):
        np.add(padded[radius - distance :][:n], padded[radius + distance :][:n], out=both)
        both *= weights[distance]
        total += both
    return total
