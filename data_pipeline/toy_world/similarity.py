"""Which of two variations of a toy scene looks nearer to it: the variations and a stated model of the voters."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from pineco.data_pipeline.toy_world.colours import COLOURS, lab, sample_accent, sample_colour
from pineco.data_pipeline.toy_world.layouts import arrangements, max_radius, pick, place
from pineco.data_pipeline.toy_world.scene import (
    MIN_CONTRAST,
    SHAPES,
    TEXTURES,
    Scene,
    Shape,
    ToyObject,
    contrast,
    sample_background,
    sample_light,
)

# The angle after which a shape looks the same again; 0 where every rotation looks the same.
_SYMMETRY: dict[Shape, float] = {
    "circle": 0, "ring": 0, "square": 90, "cross": 90, "triangle": 120, "star": 72, "bowtie": 180,
    "diamond": 180,
}  # fmt: skip
_WEIGHTS = {
    "layout": 1.0, "pose": 0.5, "colour": 1.0, "count": 0.8,
    "size": 0.5, "texture": 0.5, "shape": 1.0, "background": 0.6,
}  # fmt: skip
_DECIDED = 6.0  # a voter prefers the nearer image by 0.2 of distance in 77 % of the cases


def _turn(a: ToyObject, b: ToyObject) -> float:
    """The visible rotation from a to b as a share of a right angle, [0, 1]."""
    period = _SYMMETRY.get(a.shape, 360.0)
    if not period:
        return 0.0
    turn = abs(a.rotation - b.rotation) % period
    return min(min(turn, period - turn) / 90, 1.0)


def _one_way(scene: Scene, other: Scene) -> dict[str, float]:
    """Each object of scene against the nearest of other, averaged; every term within [0, 1]."""
    total = dict.fromkeys(("layout", "pose", "colour", "size", "texture", "shape"), 0.0)
    for a in scene.objects:
        b = min(other.objects, key=lambda thing: (thing.x - a.x) ** 2 + (thing.y - a.y) ** 2)
        total["layout"] += min(math.hypot(a.x - b.x, a.y - b.y) / 0.35, 1.0)
        total["pose"] += _turn(a, b)
        total["colour"] += min(math.dist(lab(a.rgb), lab(b.rgb)) / 80, 1.0)
        total["size"] += min(abs(math.log2(a.radius / b.radius)), 1.0)
        total["texture"] += a.texture != b.texture
        total["shape"] += a.shape != b.shape
    return {name: value / len(scene.objects) for name, value in total.items()}


def perceptual_distance(scene_a: Scene, scene_b: Scene) -> float:
    """How different two scenes look, from 0 (the same) to 5.9; symmetric.

    A weighted sum of terms in [0, 1]. Each object is compared with the nearest one of the other scene, both
    ways round, which gives

        layout      1.0   distance of the centres, full at 0.35 of the picture
        colour      1.0   CIE76 in Lab, full at 80
        shape       1.0   another or not
        pose        0.5   rotation up to the symmetry of the shape, full at 90 degrees
        size        0.5   octaves of radius, full at 1
        texture     0.5   another or not

    and the scenes as a whole give

        count       0.8   octaves, full at 2
        background  0.6   half another kind or not, half CIE76 of its colour, full at 80

    Light and noise do not count: people discount them.
    """
    forth, back = _one_way(scene_a, scene_b), _one_way(scene_b, scene_a)
    terms = {name: (forth[name] + back[name]) / 2 for name in forth}
    terms["count"] = min(abs(math.log2(len(scene_a.objects) / len(scene_b.objects))) / 2, 1.0)
    a, b = scene_a.background, scene_b.background
    terms["background"] = (a.kind != b.kind) / 2 + min(math.dist(lab(a.rgb), lab(b.rgb)) / 80, 1.0) / 2
    return sum(_WEIGHTS[name] * value for name, value in terms.items())


def vote(reference: Scene, left: Scene, right: Scene, voters: int, rng: np.random.Generator) -> int:
    """How many of the voters find the right image nearer to the reference.

    Each prefers it with probability sigmoid(6 (d_left - d_right)), d being the perceptual distance to the
    reference, independently of the others.
    """
    margin = perceptual_distance(reference, left) - perceptual_distance(reference, right)
    return int(rng.binomial(voters, 1 / (1 + math.exp(-_DECIDED * margin))))


def _vary_things(scene: Scene, rng: np.random.Generator) -> list[ToyObject]:
    """Other pose, size, colour, texture or (rarely) shape, the same for the whole main group."""
    main = scene.objects[0]
    change: dict[str, Any] = {}
    if rng.random() < 0.3:
        change["radius"] = max(main.radius * 2 ** (1.2 * (rng.random() - 0.5)), 0.08)
    if rng.random() < 0.4:
        colour = main.colour if rng.random() < 0.4 else pick(rng, COLOURS)
        rgb = sample_colour(rng, colour)
        change |= {"colour": colour, "rgb": rgb, "accent": sample_accent(rng, rgb)}
    if rng.random() < 0.2:
        change["texture"] = pick(rng, TEXTURES)
    if rng.random() < 0.12:
        change["shape"] = pick(rng, SHAPES)
    turn = (rng.random() - 0.5) * (180 if rng.random() < 0.4 else 12)
    return [
        replace(thing, rotation=thing.rotation + turn, **(change if thing.shape == main.shape else {}))
        for thing in scene.objects
    ]


def vary(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same content seen otherwise: some of what `perceptual_distance` weighs changes, and the light."""
    things = _vary_things(scene, rng)
    count, layout = len(things), scene.layout
    if rng.random() < 0.3:
        count = min(max(count + pick(rng, (-2, -1, 1, 2)), 1), 9)
        things = [*things, *[things[0]] * count][:count]
    moved = count != len(scene.objects) or rng.random() < 0.35
    if moved:
        options = [name for name, _ in arrangements(count, None, "small")]
        layout = layout if layout in options and rng.random() < 0.5 else pick(rng, options)
    room = max_radius(layout, count)
    things = [replace(thing, radius=min(thing.radius, room)) for thing in things]
    if moved:
        centres = place(rng, layout, count, max(thing.radius for thing in things))
        things = [replace(thing, x=x, y=y) for thing, (x, y) in zip(things, centres, strict=True)]
    background = scene.background
    drowned = any(contrast(background.rgb, thing) < MIN_CONTRAST / 2 for thing in things)
    if drowned or rng.random() < 0.3:
        background = sample_background(rng, things)
    return Scene(tuple(things), layout, background, sample_light(rng))
