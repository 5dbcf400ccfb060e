"""The colours of the toy world: their names, the shades that go by them, and how far apart they look.

Colours are RGB in [0, 1].
"""

import colorsys
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from pineco.data_pipeline.toy_world.layouts import between

RGB = tuple[float, float, float]
Colour = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
COLOURS: tuple[Colour, ...] = get_args(Colour)

# Hue in degrees, then the ranges of saturation and value. Green is kept dark enough to stay apart from cyan.
_COLOUR_HSV: dict[Colour, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "red": (357, (0.82, 0.95), (0.80, 0.95)),
    "orange": (28, (0.85, 1.0), (0.93, 1.0)),
    "yellow": (54, (0.78, 0.95), (0.92, 1.0)),
    "green": (125, (0.65, 0.85), (0.55, 0.72)),
    "cyan": (183, (0.60, 0.85), (0.82, 0.95)),
    "blue": (226, (0.72, 0.90), (0.80, 0.98)),
    "purple": (277, (0.62, 0.80), (0.62, 0.80)),
    "pink": (328, (0.42, 0.58), (0.95, 1.0)),
}
BACKGROUND_HSV: dict[str, tuple[float, float, float]] = {
    "white": (0, 0.0, 0.97), "gray": (0, 0.0, 0.52), "black": (0, 0.0, 0.08),
    "dark red": (355, 0.75, 0.32), "dark green": (140, 0.65, 0.27), "dark blue": (228, 0.70, 0.34),
    "dark purple": (280, 0.55, 0.30), "brown": (24, 0.55, 0.36), "beige": (38, 0.22, 0.88),
    "light green": (120, 0.24, 0.90), "light blue": (212, 0.26, 0.95), "light pink": (345, 0.18, 0.98),
}  # fmt: skip


@lru_cache(maxsize=4096)
def lab(rgb: RGB) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of an sRGB colour in [0, 1]; distances in it follow what people see."""
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def sample_colour(rng: np.random.Generator, colour: Colour) -> RGB:
    """A shade that people still call by that name."""
    hue, saturation, value = _COLOUR_HSV[colour]
    turn = (hue + between(rng, -6, 6)) / 360 % 1
    return colorsys.hsv_to_rgb(turn, between(rng, *saturation), between(rng, *value))


def sample_accent(rng: np.random.Generator, rgb: RGB) -> RGB:
    """The second colour of a texture: the same hue, much darker or much lighter."""
    if rng.random() < 0.5:
        factor = between(rng, 0.25, 0.5)
        return rgb[0] * factor, rgb[1] * factor, rgb[2] * factor
    mix = between(rng, 0.6, 0.85)
    return rgb[0] + (1 - rgb[0]) * mix, rgb[1] + (1 - rgb[1]) * mix, rgb[2] + (1 - rgb[2]) * mix
