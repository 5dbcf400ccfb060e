"""The stated model of the voters on triplets."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pineco.data_pipeline.toy_world.scene import Background, Light, Scene, ToyObject, sample_scene
from pineco.data_pipeline.toy_world.similarity import perceptual_distance


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(7)
    return [sample_scene(rng) for _ in range(count)]


def solid(shape: Any = "circle", **changes: Any) -> Scene:
    """One object on plain black under an even light."""
    thing = ToyObject(shape, "red", (1.0, 1.0, 1.0), (0.5, 0, 0), "solid", "large", 0.5, 0.5, 0.25, 0.0, 1.0)
    even = Light(gain=(1.0, 1.0, 1.0), slope=0.0, angle=0.0, noise=0.0, seed=0)
    return Scene((replace(thing, **changes),), "middle", Background("plain", "black", (0.0, 0.0, 0.0), 0.0), even)


def test_perceptual_distance_is_a_symmetric_dissimilarity() -> None:
    """If it fails, votes depend on the order of the arguments or prefer a change to none."""
    pairs = zip(scenes(100), scenes(200)[100:], strict=True)
    for a, b in pairs:
        assert perceptual_distance(a, a) == 0
        assert perceptual_distance(a, b) == pytest.approx(perceptual_distance(b, a))
        assert 0 <= perceptual_distance(a, b) <= 5.9


@pytest.mark.parametrize(
    ("shape", "near", "far"),
    [
        ("circle", {"x": 0.52}, {"x": 0.6}),
        ("arrow", {"rotation": 10.0}, {"rotation": 60.0}),
        ("circle", {"rgb": (1.0, 0.9, 0.9)}, {"rgb": (1.0, 0.2, 0.2)}),
        ("circle", {"radius": 0.24}, {"radius": 0.15}),
        ("circle", {}, {"texture": "dotted"}),
        ("circle", {}, {"shape": "star"}),
    ],
    ids=["layout", "pose", "colour", "size", "texture", "shape"],
)
def test_perceptual_distance_grows_along(shape: str, near: dict[str, Any], far: dict[str, Any]) -> None:
    """If it fails, that axis of the stated model has no influence or the wrong sign."""
    here = solid(shape)
    to_near, to_far = (perceptual_distance(here, solid(**{"shape": shape, **there})) for there in (near, far))
    assert to_near < to_far


def test_perceptual_distance_counts_and_ignores_what_it_says() -> None:
    """If it fails, the model's docstring is wrong about counts, symmetric turns or light."""
    one, square = solid(), solid("square")
    assert perceptual_distance(one, replace(one, objects=one.objects * 2)) == pytest.approx(0.4)
    assert perceptual_distance(square, solid("square", rotation=90.0)) == 0
    assert perceptual_distance(one, replace(one, light=replace(one.light, slope=0.2))) == 0
