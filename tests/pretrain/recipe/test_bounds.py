"""Bounds stand beside a field's default, are told in words, and hold for settings within settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from pineco.launch.recipes import settings
from pineco.pretrain.recipe.bounds import Bounds, bounded, bounds_of, out_of_bounds
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.objectives import OBJECTIVES
from pineco.pretrain.recipe.settings import Recipe


@dataclass(frozen=True)
class Inner:
    rank: int = bounded(4, at_least=1, at_most=8)


@dataclass(frozen=True)
class Outer:
    free: int = 0
    steps: int | None = bounded(None, at_least=1)
    pair: tuple[float, float] = bounded((0.5, 0.5), at_least=0, below=1)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("bounds", "words", "allowed", "refused"),
    [
        (Bounds(above=0), "be positive", [1e-9, math.inf], [0, -1]),
        (Bounds(above=0, below=math.inf), "be positive and finite", [1e-9], [0, math.inf]),
        (Bounds(at_least=0), "not be negative", [0, math.inf], [-1e-9]),
        (Bounds(at_least=0, below=math.inf), "be finite and not negative", [0], [-1e-9, math.inf]),
        (Bounds(at_least=1), "be at least 1", [1], [0]),
        (Bounds(at_least=0, below=1), "lie in [0, 1)", [0, 0.9], [1]),
        (Bounds(at_least=2, at_most=32), "lie in [2, 32]", [2, 32], [1, 33]),
        (Bounds(above=0, at_most=1), "be above 0 and at most 1", [0.1, 1], [0, 1.1]),
        (Bounds(at_least=1, null="all"), "be at least 1, or null for all", [1], [0]),
    ],
)
def test_what_is_allowed_is_what_the_words_say(
    bounds: Bounds, words: str, allowed: list[float], refused: list[float]
) -> None:
    """A message would send people to a value that is refused again."""
    assert str(bounds) == words
    assert all(map(bounds.allow, allowed))
    assert not any(map(bounds.allow, [*refused, math.nan]))


def test_each_setting_out_of_its_bounds_is_named_with_its_path() -> None:
    """A setting of an inner section would be let through, or named without its section."""
    assert [*out_of_bounds(Outer())] == []
    assert [*out_of_bounds(Outer(free=-1, steps=0, pair=(0.5, 1.0), inner=Inner(rank=9)))] == [
        "steps is 0; it must be at least 1",
        "pair is [0.5, 1.0]; each must lie in [0, 1)",
        "inner.rank is 9; it must lie in [1, 8]",
    ]


def test_defaults_are_within_their_bounds() -> None:
    """A recipe that leaves a setting out would be refused for it."""
    assert Recipe().objective.kind == "clip"
    for row in OBJECTIVES.values():
        assert Recipe(objective=row.settings(), data=row.data()).objective == row.settings()


@pytest.mark.parametrize("name", ["clip_toy", "neco_tiny", "align_tiny", "pi_toy"])
def test_every_setting_is_explained_with_its_bounds(name: str) -> None:
    """`pineco recipes NAME` would show a setting without a word, or keep a limit to itself."""
    recipe = load_recipe(name)
    about = {setting.path: setting.about for setting in settings(recipe)}
    assert [path for path, words in about.items() if not words] == []
    assert about["optimizer.lr"].endswith("; must be positive and finite")
    for key, bounds in bounds_of(type(recipe.objective)).items():
        assert about[f"objective.{key}"].endswith(f"; must {bounds}")
