"""Small synthetic scenes: what may stand in one, how to draw one at random, how to render it.

Lengths are fractions of the picture's side, y points down, angles are degrees, colours are RGB in [0, 1].
Everything that a caption may say (shape, colour, texture, size, count, layout, background) is sampled
independently where geometry allows it, and light, noise and hue vary freely, so that no single statistic of
the pixels gives an attribute away.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import InputError

Array = NDArray[np.floating]  # float32 throughout, for speed
RGB = tuple[float, float, float]
T = TypeVar("T")

Shape = Literal[
    "circle", "square", "triangle", "star", "ring", "cross",
    "heart", "crescent", "hexagon", "diamond", "arrow", "semicircle",
]  # fmt: skip
Colour = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
Texture = Literal["solid", "striped", "dotted", "checked", "shaded"]
Size = Literal["small", "medium", "large"]
Layout = Literal[
    "left", "right", "top", "bottom", "middle", "row", "column", "diagonal", "grid", "scattered"
]  # fmt: skip
Backdrop = Literal["plain", "gradient", "noisy", "tiled", "wavy"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
TEXTURES: tuple[Texture, ...] = get_args(Texture)
SIZES: tuple[Size, ...] = get_args(Size)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
BACKDROPS: tuple[Backdrop, ...] = get_args(Backdrop)

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
_RADIUS: dict[Size, tuple[float, float]] = {
    "small": (0.085, 0.105), "medium": (0.135, 0.165), "large": (0.21, 0.33),
}  # fmt: skip
_LAYOUT_COUNTS: dict[Layout, tuple[int, ...]] = {
    "left": (1, 2, 3), "right": (1, 2, 3), "top": (1, 2, 3), "bottom": (1, 2, 3), "middle": (1,),
    "row": (2, 3, 4, 5), "column": (2, 3, 4, 5), "diagonal": (3, 4, 5), "grid": (4, 6, 9),
    "scattered": (2, 3, 4, 5, 6, 7, 8, 9),
}  # fmt: skip
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


class Rendering(NamedTuple):
    """One rendered scene; H = W = size."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    mask: NDArray[np.uint8]  # (H, W) 1 + index in SHAPES, 0 is background
    depth: NDArray[np.uint16]  # (H, W) millimetres; 0 would be invalid and does not occur


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely (rng.choice takes ten times as long)."""
    return options[int(rng.random() * len(options))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform draw as a Python float."""
    return low + (high - low) * float(rng.random())


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


def max_radius(layout: Layout, count: int) -> float:
    """The largest radius with which that many objects fit in that layout."""
    if layout == "grid":
        return 0.225 if count == 4 else 0.15
    if layout == "scattered":
        return {2: 0.23, 3: 0.19, 4: 0.165, 5: 0.15, 6: 0.14}.get(count, 0.115)
    if layout in ("row", "column", "diagonal"):
        return (0.54 if layout == "diagonal" else 0.47) / count
    if layout == "middle":
        return 0.33
    return {1: 0.24, 2: 0.155, 3: 0.115}[count]


def _apart(
    rng: np.random.Generator, box: tuple[float, float, float, float], count: int, gap: float
) -> list[tuple[float, float]]:
    """Points in box (x0, x1, y0, y1) at least gap apart; the gap shrinks when they do not fit."""
    points: list[tuple[float, float]] = []
    while len(points) < count:
        x, y = between(rng, box[0], box[1]), between(rng, box[2], box[3])
        if all((x - u) ** 2 + (y - v) ** 2 > gap**2 for u, v in points):
            points.append((x, y))
        gap *= 0.995
    return points


def place(rng: np.random.Generator, layout: Layout, count: int, radius: float) -> list[tuple[float, float]]:
    """The centres of count objects of at most that radius."""
    edge, far = radius * 1.02, 1 - radius * 1.02
    if layout in ("row", "column", "diagonal"):
        # At least 2.1 radii apart, at most from edge to edge.
        span = between(rng, min(2.1 * radius * (count - 1), far - edge), far - edge)
        start = edge + between(rng, 0, far - edge - span)
        along = [start + span * i / (count - 1) for i in range(count)]
        level = between(rng, max(edge, 0.3), min(far, 0.7))
        if layout == "row":
            return [(u, level + between(rng, -0.02, 0.02)) for u in along]
        if layout == "column":
            return [(level + between(rng, -0.02, 0.02), u) for u in along]
        rising = rng.random() < 0.5
        along = [edge + (far - edge) * i / (count - 1) for i in range(count)]
        return [(u, 1 - u if rising else u) for u in along]
    if layout == "grid":
        columns = {4: 2, 6: pick(rng, (2, 3)), 9: 3}[count]
        rows = count // columns
        step = between(rng, max(2.1 * radius, 0.24), 0.94 / max(columns, rows))
        return [
            (0.5 + step * (i % columns - (columns - 1) / 2), 0.5 + step * (i // columns - (rows - 1) / 2))
            for i in range(count)
        ]
    near = max(edge, 0.27)  # how far from the border the centres of the four sides may lie
    box = {
        "left": (edge, near, edge, far), "right": (1 - near, far, edge, far),
        "top": (edge, far, edge, near), "bottom": (edge, far, 1 - near, far),
        "middle": (0.45, 0.55, 0.45, 0.55), "scattered": (edge, far, edge, far),
    }[layout]  # fmt: skip
    if count == 1 and layout != "middle":  # in the corner of two sides, two captions would be true
        box = (max(box[0], 0.3), min(box[1], 0.7), box[2], box[3]) if layout in ("top", "bottom") else box
        box = (box[0], box[1], max(box[2], 0.3), min(box[3], 0.7)) if layout in ("left", "right") else box
    return _apart(rng, box, count, (1.7 if layout == "scattered" else 2.05) * radius)


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


def arrangements(count: int | None, layout: Layout | None, size: Size | None) -> list[tuple[Layout, int]]:
    """The layouts and counts in which objects of that size (None: any) fit."""
    smallest = _RADIUS[size or "small"][0]
    return [
        (name, n)
        for name in LAYOUTS
        for n in _LAYOUT_COUNTS[name]
        if layout in (None, name) and count in (None, n) and max_radius(name, n) >= smallest
    ]


def _arrange(
    rng: np.random.Generator, count: int | None, layout: Layout | None, size: Size | None
) -> tuple[Layout, int]:
    """Draw first the count by its weight, then the layout, among those that fit."""
    options = arrangements(count, layout, size)
    if not options:
        raise InputError(
            f"no scene has count={count}, layout={layout} and size={size}: leave one of them out"
        )
    counts = sorted({n for _, n in options})
    ends = np.cumsum([_COUNT_WEIGHTS[n - 1] for n in counts])
    drawn = counts[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]
    return pick(rng, [option for option in options if option[1] == drawn])


def sample_radius(
    rng: np.random.Generator, layout: Layout, count: int, size: Size | None = None
) -> tuple[Size, float]:
    """A size that fits into the arrangement, and a radius in the range of that size."""
    room = max_radius(layout, count)
    fitting = [name for name in SIZES if _RADIUS[name][0] <= room]
    chosen = pick(rng, fitting) if size is None else size
    low, high = _RADIUS[chosen]
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
    "hexagon": lambda u, v: _planes(u, v, 6, 0.72),
    "diamond": lambda u, v: (1.05 * np.abs(u) + 0.66 * np.abs(v) - np.float32(0.693)) / np.float32(1.24),
    "arrow": _arrow,
    "semicircle": lambda u, v: np.maximum(np.hypot(u, v - 0.45) - 1.0, v - 0.45),
}

# How much of the accent colour stands at (u, v), clipped to [0, 1]; a texture scales with its object.
_PATTERN: dict[Texture, Callable[[Array, Array], Array]] = {
    "striped": lambda u, v: 0.5 + 2.5 * np.sin(np.float32(9.5) * v),
    "dotted": lambda u, v: (
        2.5 * np.cos(np.float32(8.5) * u) * np.float32(0.5)
        + 1.25 * np.cos(np.float32(8.5) * v)
        - np.float32(0.9)
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
