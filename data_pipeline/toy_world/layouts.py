"""Where the objects of a toy scene stand: the named layouts, what fits into them, and the centres.

Lengths are fractions of the picture's side, y points down.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

T = TypeVar("T")

Layout = Literal[
    "left", "right", "top", "bottom", "middle", "row", "column", "diagonal", "grid", "scattered"
]  # fmt: skip
Size = Literal["small", "medium", "large"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
SIZES: tuple[Size, ...] = get_args(Size)

RADIUS: dict[Size, tuple[float, float]] = {
    "small": (0.085, 0.105), "medium": (0.135, 0.165), "large": (0.21, 0.33),
}  # fmt: skip
_LAYOUT_COUNTS: dict[Layout, tuple[int, ...]] = {
    "left": (1, 2, 3), "right": (1, 2, 3), "top": (1, 2, 3), "bottom": (1, 2, 3), "middle": (1,),
    "row": (2, 3, 4, 5), "column": (2, 3, 4, 5), "diagonal": (3, 4, 5), "grid": (4, 6, 9),
    "scattered": (2, 3, 4, 5, 6, 7, 8, 9),
}  # fmt: skip


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely (rng.choice takes ten times as long)."""
    return options[int(rng.random() * len(options))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform draw as a Python float."""
    return low + (high - low) * float(rng.random())


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


def arrangements(count: int | None, layout: Layout | None, size: Size | None) -> list[tuple[Layout, int]]:
    """The layouts and counts in which objects of that size (None: any) fit."""
    smallest = RADIUS[size or "small"][0]
    return [
        (name, n)
        for name in LAYOUTS
        for n in _LAYOUT_COUNTS[name]
        if layout in (None, name) and count in (None, n) and max_radius(name, n) >= smallest
    ]


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
