"""pineco recipes: the list, and the explanation of every setting."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pineco.launch.recipes import field_comments, settings
from pineco.pretrain.recipe.load import load_recipe, recipe_names
from pineco.pretrain.recipe.objectives import OBJECTIVES
from tests.support.commands import command


@dataclass
class Above:
    first: int = 1  # beside it
    # On two lines
    # above it.
    second: int = 2
    third: int = 3


@dataclass
class Below(Above):
    third: int = 4  # said anew


def test_comments_are_read_from_the_source() -> None:
    """Settings would be explained by nothing, or by their neighbour's comment."""
    assert field_comments(Above) == {"first": "beside it", "second": "On two lines above it.", "third": ""}
    assert field_comments(Below)["third"] == "said anew"


def test_every_recipe_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A person would have to open fifty files."""
    assert command("recipes")([]) == 0
    shown = capsys.readouterr().out
    for name in recipe_names():
        (line,) = [line for line in shown.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 3, f"{name} says nothing of itself"


@pytest.mark.parametrize("recipe", ["clip_toy", "pi_toy", "align_tiny", "neco_tiny"])
def test_every_setting_is_explained(recipe: str) -> None:
    """A setting would be changed by guessing."""
    rows = list(settings(load_recipe(recipe)))
    assert {row.path for row in rows} >= {"seed", "data.batch_size", "optimizer.lr", "objective.kind"}
    silent = [row.path for row in rows if not row.about and row.path != "objective.kind"]
    assert not silent, f"no comment beside {', '.join(silent)}"


def test_recipes_cover_every_objective() -> None:
    """The test above would miss the settings of an objective."""
    kinds = {load_recipe(name).objective.kind for name in ("clip_toy", "pi_toy", "align_tiny", "neco_tiny")}
    assert kinds == set(OBJECTIVES)


def test_an_explanation_shows_values_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody could tell what a recipe changes."""
    assert command("recipes")(["clip_toy", "schedule.epochs=7"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("schedule.epochs")]
    assert line.split()[1:3] == ["7", "1"]
