"""The picture of a toy scene: signed distances, textures, backgrounds and light, in NumPy.

Lengths are fractions of the picture's side, y points down, angles are degrees, colours are RGB in [0, 1].
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pineco.data_pipeline.toy_world.scene import SHAPES, Background, Scene, Shape, Texture, ToyObject

Array = NDArray[np.floating]  # float32 throughout, for speed


class Rendering(NamedTuple):
    """One rendered scene; H = W = size."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    mask: NDArray[np.uint8]  # (H, W) 1 + index in SHAPES, 0 is background
    depth: NDArray[np.uint16]  # (H, W) millimetres; 0 would be invalid and does not occur


def _planes(u: Array, v: Array, sides: int, inner: float, turn: float = 0.0) -> Array:
    """A regular polygon around the origin whose sides lie at distance inner."""
    angles = [2 * math.pi * i / sides + math.radians(turn) for i in range(sides)]
    faces = [math.cos(a) * u + math.sin(a) * v for a in angles]
    return np.maximum.reduce(faces) - np.float32(inner)


def _star(u: Array, v: Array) -> Array:
    """Five points: fold the plane into one tenth, then one straight edge from tip to notch."""
    tenth = math.pi / 5
    angle = np.arctan2(u, -v)  # 0 at the top
    folded = np.abs(np.mod(angle + tenth, 2 * tenth) - tenth)
    length = np.hypot(u, v)
    notch_x, notch_y = 0.5 * math.sin(tenth), 0.5 * math.cos(tenth)
    edge_x, edge_y = notch_x, notch_y - 1.04
    norm = math.hypot(edge_x, edge_y)
    return (-edge_y * length * np.sin(folded) + edge_x * (length * np.cos(folded) - 1.04)) / np.float32(norm)


def _heart(u: Array, v: Array) -> Array:
    """Two discs over a corner, after Inigo Quilez, moved to the middle and enlarged."""
    x, y = np.abs(u) * np.float32(0.7), np.float32(0.56) - v * np.float32(0.7)
    lobe = np.hypot(x - 0.25, y - 0.75) - np.float32(math.sqrt(2) / 4)
    fold = 0.5 * np.maximum(x + y, 0)
    corner = np.sqrt(np.minimum(x**2 + (y - 1) ** 2, (x - fold) ** 2 + (y - fold) ** 2)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, corner) / np.float32(0.7)


def _arrow(u: Array, v: Array) -> Array:
    head = np.maximum(0.02 - u, (0.85 * (u - 1) + 0.98 * np.abs(v)) / 1.297)
    return np.minimum(head, _box(u + 0.45, v, 0.55, 0.3))


def _box(u: Array, v: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(np.abs(u) - np.float32(half_width), np.abs(v) - np.float32(half_height))


# Signed distance to the outline, negative inside; (h, w) local coordinates, in radii. All shapes cover about
# the same area (1.4 to 1.9 square radii), so that how much of the picture is filled does not tell the shape.
DISTANCE: dict[Shape, Callable[[Array, Array], Array]] = {
    "circle": lambda u, v: np.hypot(u, v) - np.float32(0.77),
    "square": lambda u, v: _box(u, v, 0.66, 0.66),
    "triangle": lambda u, v: _planes(u, v - 0.2, 3, 0.56, turn=90),
    "star": _star,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.68) - np.float32(0.2),
    "cross": lambda u, v: np.minimum(_box(u, v, 0.28, 0.95), _box(u, v, 0.95, 0.28)),
    "heart": _heart,
    "crescent": lambda u, v: np.maximum(np.hypot(u + 0.05, v) - 0.95, 0.72 - np.hypot(u - 0.43, v)),
    "bowtie": lambda u, v: np.maximum(np.abs(u) - 0.8, (np.abs(v) - 0.72 * np.abs(u) - 0.18) / 1.232),
    "diamond": lambda u, v: (1.05 * np.abs(u) + 0.66 * np.abs(v) - np.float32(0.693)) / np.float32(1.24),
    "arrow": _arrow,
    "semicircle": lambda u, v: np.maximum(np.hypot(u, v - 0.45) - 1.0, v - 0.45),
}

# How much of the accent colour stands at (u, v), clipped to [0, 1]; a texture scales with its object.
_PATTERN: dict[Texture, Callable[[Array, Array], Array]] = {
    "striped": lambda u, v: 0.5 + 2.5 * np.sin(np.float32(9.5) * v),
    "dotted": lambda u, v: (
        2.5 * np.cos(np.float32(8.5) * u) * np.float32(0.5) + 1.25 * np.cos(np.float32(8.5) * v) - np.float32(0.9)
    ),
    "checked": lambda u, v: 0.5 + 4 * np.sin(np.float32(6.6) * u) * np.sin(np.float32(6.6) * v),
    "shaded": lambda u, v: 0.5 + 0.62 * u + np.float32(0.4) * v,
}


@lru_cache(maxsize=8)
def _axis(size: int) -> Array:
    """The centres of the pixels of one side."""
    return ((np.arange(size) + 0.5) / size).astype(np.float32)


def _ramp(size: int, angle: float) -> Array:
    """(H, W) coordinate along a direction, 0 in the middle, within about [-0.7, 0.7]."""
    axis = _axis(size) - np.float32(0.5)
    turn = math.radians(angle)
    return np.float32(math.cos(turn)) * axis + np.float32(math.sin(turn)) * axis[:, None]


def _backdrop(background: Background, size: int, rng: np.random.Generator) -> Array:
    """(H, W, 3) the background alone; its pattern changes the brightness by at most a quarter."""
    rgb = np.array(background.rgb, np.float32)
    if background.kind == "plain":
        return np.broadcast_to(rgb, (size, size, 3)).copy()
    if background.kind == "gradient":
        pattern = _ramp(size, background.angle) * np.float32(1.5)
    elif background.kind == "noisy":
        pattern = rng.standard_normal((size, size), dtype=np.float32) * np.float32(0.55)
    elif background.kind == "tiled":
        near = np.abs(np.mod(_axis(size) * 6, 1) - 0.5) > 0.4
        pattern = (near | near[:, None]).astype(np.float32)
    else:
        axis = _axis(size)
        bend = np.float32(0.035) * np.sin(np.float32(16) * axis)
        pattern = np.sin(np.float32(38) * (axis[:, None] + bend))
    # Dark backgrounds get lighter patterns and light ones darker: relative changes alone would not be seen.
    strength = 0.13 if max(background.rgb) < 0.6 else -0.16
    return rgb + (np.float32(strength) * pattern)[:, :, None]


def _paint(thing: ToyObject, size: int, image: Array, mask: NDArray[np.uint8], depth: Array) -> None:
    """Draw one object over what is there, with edges one pixel wide."""
    reach = thing.radius * 1.1 + 1 / size
    x0, x1 = max(int((thing.x - reach) * size), 0), min(math.ceil((thing.x + reach) * size), size)
    y0, y1 = max(int((thing.y - reach) * size), 0), min(math.ceil((thing.y + reach) * size), size)
    axis, turn = _axis(size), math.radians(thing.rotation)
    dx, dy = axis[x0:x1] - np.float32(thing.x), axis[y0:y1, None] - np.float32(thing.y)
    cos, sin = np.float32(math.cos(turn) / thing.radius), np.float32(math.sin(turn) / thing.radius)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    coverage = 0.5 - DISTANCE[thing.shape](u, v) * np.float32(thing.radius * size)
    np.clip(coverage, 0, 1, out=coverage)
    colour = np.array(thing.rgb, np.float32)
    if thing.texture != "solid":
        share = np.clip(_PATTERN[thing.texture](u, v), 0, 1)[:, :, None]
        colour = colour + share * (np.array(thing.accent, np.float32) - colour)
    patch = image[y0:y1, x0:x1]
    patch += coverage[:, :, None] * (colour - patch)
    inside = coverage >= 0.5
    mask[y0:y1, x0:x1][inside] = 1 + SHAPES.index(thing.shape)
    depth[y0:y1, x0:x1][inside] = thing.depth


def render(scene: Scene, size: int) -> Rendering:
    """The picture of a scene with its mask and depth, all (size, size); a pure function."""
    light = scene.light
    rng = np.random.Generator(np.random.SFC64(light.seed))
    image = _backdrop(scene.background, size, rng)
    mask = np.zeros((size, size), np.uint8)
    depth = np.empty((size, size), np.float32)
    depth[:] = (np.float32(5) - 2 * _axis(size))[:, None]
    for thing in sorted(scene.objects, key=lambda thing: -thing.depth):
        _paint(thing, size, image, mask, depth)
    image *= np.array(light.gain, np.float32)
    image *= (1 + np.float32(light.slope) * _ramp(size, light.angle))[:, :, None]
    image += np.float32(light.noise) * rng.standard_normal((size, size, 3), dtype=np.float32)
    pixels = (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return Rendering(pixels, mask, (depth * 1000).astype(np.uint16))
