"""Small synthetic scenes: what may stand in one and how to draw one at random.

Lengths are fractions of the picture's side, y points down, angles are degrees, colours are RGB in [0, 1].
Everything that a caption may say (shape, colour, texture, size, count, layout, background) is sampled
independently where geometry allows it, and light, noise and hue vary freely, so that no single statistic of
the pixels gives an attribute away.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.toy_world.colours import (
    BACKGROUND_HSV,
    COLOURS,
    RGB,
    Colour,
    lab,
    sample_accent,
    sample_colour,
)
from pineco.data_pipeline.toy_world.layouts import (
    RADIUS,
    SIZES,
    Layout,
    Size,
    arrangements,
    between,
    max_radius,
    pick,
    place,
)

Shape = Literal[
    "circle", "square", "triangle", "star", "ring", "cross",
    "heart", "crescent", "bowtie", "diamond", "arrow", "semicircle",
]  # fmt: skip
Texture = Literal["solid", "striped", "dotted", "checked", "shaded"]
Backdrop = Literal["plain", "gradient", "noisy", "tiled", "wavy"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
TEXTURES: tuple[Texture, ...] = get_args(Texture)
BACKDROPS: tuple[Backdrop, ...] = get_args(Backdrop)

_COUNT_WEIGHTS = (30, 16, 14, 12, 10, 8, 4, 3, 3)  # of 1 to 9 objects, in percent
MIN_CONTRAST = 32.0  # CIE76 between an object and its background; below, shapes drown at 64 pixels
_MAX_ROTATION = 35.0  # degrees; beyond it, squares and diamonds or crosses and stars begin to look alike
_FOCAL = 0.2  # metres: the distance of an object is _FOCAL / radius, 0.5 to 2.8 m


@dataclass(frozen=True, slots=True)
class ToyObject:
    """One object; a nearer one hides a farther one."""

    shape: Shape
    colour: Colour
    rgb: RGB
    accent: RGB  # the texture's second colour, a darker or lighter rgb
    texture: Texture
    size: Size
    x: float  # centre, [0, 1]
    y: float
    radius: float  # half the extent, [0, 0.5]
    rotation: float  # degrees, clockwise
    depth: float  # metres; near objects are the large ones, up to 12 % of chance


@dataclass(frozen=True, slots=True)
class Background:
    """What stands behind the objects, a slope from 3 m (bottom) to 5 m (top)."""

    kind: Backdrop
    colour: str  # a key of BACKGROUND_HSV
    rgb: RGB
    angle: float  # degrees: direction of the gradient and the waves


@dataclass(frozen=True, slots=True)
class Light:
    """How the picture was taken; no caption speaks of it."""

    gain: RGB  # factor on each channel, [0.73, 1.21]: brightness and a slight cast
    slope: float  # relative change from the centre to the border, [0, 0.22]
    angle: float  # degrees, where it comes from
    noise: float  # standard deviation of the sensor's noise, [0, 0.03]
    seed: int  # of that noise and of noisy backgrounds


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects, the main group first, then the companions (another shape and another colour)."""

    objects: tuple[ToyObject, ...]
    layout: Layout
    background: Background
    light: Light

    def counts(self) -> dict[Shape, int]:
        """How many objects of each shape that occurs."""
        shapes = [thing.shape for thing in self.objects]
        return {shape: shapes.count(shape) for shape in SHAPES if shape in shapes}


def contrast(rgb: RGB, thing: ToyObject) -> float:
    """CIE76 between a background and an object; of a textured one, the accent may fade a third more."""
    body = math.dist(lab(rgb), lab(thing.rgb))
    return body if thing.texture == "solid" else min(body, 1.5 * math.dist(lab(rgb), lab(thing.accent)))


def sample_background(
    rng: np.random.Generator, things: Sequence[ToyObject], kind: Backdrop | None = None
) -> Background:
    """A background that every one of the things stands out from."""
    names = list(BACKGROUND_HSV)
    for attempt in range(40):
        colour = pick(rng, names)
        hue, saturation, value = BACKGROUND_HSV[colour]
        rgb = colorsys.hsv_to_rgb(
            (hue + between(rng, -5, 5)) / 360 % 1, saturation, min(value * between(rng, 0.94, 1.06), 1.0)
        )
        # The limit falls slowly, for pairs of kinds that hardly any background suits.
        limit = MIN_CONTRAST - attempt / 2
        if all(contrast(rgb, thing) > limit for thing in things):
            break
    chosen = pick(rng, BACKDROPS) if kind is None else kind
    return Background(chosen, colour, rgb, between(rng, 0, 360))


def sample_light(rng: np.random.Generator) -> Light:
    """How the picture is lit and how noisy it is."""
    # The cast hides what the mean hue of a picture with a gray background would tell of its objects.
    gain, cast = between(rng, 0.8, 1.12), 0.08
    return Light(
        gain=(
            gain * between(rng, 1 - cast, 1 + cast),
            gain * between(rng, 1 - cast, 1 + cast),
            gain * between(rng, 1 - cast, 1 + cast),
        ),
        slope=between(rng, 0, 0.22),
        angle=between(rng, 0, 360),
        noise=0.03 * float(rng.random()) ** 2,
        seed=int(rng.integers(2**31)),
    )


def sample_group(
    rng: np.random.Generator,
    centres: Sequence[tuple[float, float]],
    radius: float,
    size: Size,
    shape: Shape,
    colour: Colour,
    texture: Texture | None,
) -> list[ToyObject]:
    """Objects of one kind, one at each centre, as alike as the stars of one flag."""
    rgb = sample_colour(rng, colour)
    accent = sample_accent(rng, rgb)
    surface = pick(rng, TEXTURES) if texture is None else texture
    turn = between(rng, -_MAX_ROTATION, _MAX_ROTATION)
    return [
        ToyObject(
            shape, colour, rgb, accent, surface, size, x, y, radius,
            rotation=turn + between(rng, -5, 5), depth=_FOCAL / radius * between(rng, 0.88, 1.12),
        )
        for x, y in centres
    ]  # fmt: skip


def _arrange(
    rng: np.random.Generator, count: int | None, layout: Layout | None, size: Size | None
) -> tuple[Layout, int]:
    """Draw first the count by its weight, then the layout, among those that fit."""
    options = arrangements(count, layout, size)
    if not options:
        raise InputError(f"no scene has count={count}, layout={layout} and size={size}: leave one of them out")
    counts = sorted({n for _, n in options})
    ends = np.cumsum([_COUNT_WEIGHTS[n - 1] for n in counts])
    drawn = counts[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]
    return pick(rng, [option for option in options if option[1] == drawn])


def sample_radius(rng: np.random.Generator, layout: Layout, count: int, size: Size | None = None) -> tuple[Size, float]:
    """A size that fits into the arrangement, and a radius in the range of that size."""
    room = max_radius(layout, count)
    fitting = [name for name in SIZES if RADIUS[name][0] <= room]
    chosen = pick(rng, fitting) if size is None else size
    low, high = RADIUS[chosen]
    return chosen, between(rng, low, min(high, room))


def sample_scene(
    rng: np.random.Generator,
    *,
    shape: Shape | None = None,
    colour: Colour | None = None,
    texture: Texture | None = None,
    size: Size | None = None,
    count: int | None = None,
    layout: Layout | None = None,
    backdrop: Backdrop | None = None,
    companions: bool = True,
) -> Scene:
    """A random scene; what is given is fixed, the rest is free.

    With companions, a third of the scenes of several objects mixes two kinds, which differ in shape and in
    colour (but not in size and radius).
    """
    layout, total = _arrange(rng, count, layout, size)
    extent, radius = sample_radius(rng, layout, total, size)
    centres = place(rng, layout, total, radius)
    main = total
    if companions and total > 1 and rng.random() < 0.33:
        main = 1 + int(rng.random() * (total - 1))
        order = rng.permutation(total)
        centres = [centres[i] for i in order]
    form = pick(rng, SHAPES) if shape is None else shape
    paint = pick(rng, COLOURS) if colour is None else colour
    things = sample_group(rng, centres[:main], radius, extent, form, paint, texture)
    if main < total:
        other_shape = pick(rng, [name for name in SHAPES if name != form])
        other_colour = pick(rng, [name for name in COLOURS if name != paint])
        things += sample_group(rng, centres[main:], radius, extent, other_shape, other_colour, texture)
    return Scene(tuple(things), layout, sample_background(rng, things, backdrop), sample_light(rng))
