"""Scalars beside metrics.jsonl: the same TensorBoard folder and the same W&B run after every start."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.tracking import Board, check_tracking


class FakeWandb:
    """wandb as far as it is used."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = 0

    def init(self, **settings: Any) -> SimpleNamespace:
        self.begun.append(settings)
        return SimpleNamespace(log=lambda values, step: self.logged.append((values, step)), finish=self._finish)

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_requeue_is_the_same_run(tmp_path: Path, wandb: FakeWandb) -> None:
    """Every preemption would begin a new curve."""
    recipe = load_recipe("clip_toy", ["tracking.wandb=seeing"])
    for start in range(2):
        with closing(Board(tmp_path, recipe, purge_step=start)) as board:
            board.add({"clip_toy/loss": 1.0 - start}, step=start)
    first, second = wandb.begun
    assert first == second
    assert first["project"] == "seeing"
    assert first["resume"] == "allow"
    assert len(first["id"]) == 8
    assert wandb.logged == [({"clip_toy/loss": 1.0}, 0), ({"clip_toy/loss": 0.0}, 1)]
    assert wandb.finished == 2


def test_evaluation_beside_training_is_a_run_of_the_same_group(tmp_path: Path, wandb: FakeWandb) -> None:
    """Two processes would write into one run, and lose each other's rows."""
    recipe = load_recipe("clip_toy", ["tracking.wandb=seeing"])
    for part in ("train", "evaluation"):
        Board(tmp_path, recipe, part=part).close()
    train, evaluation = wandb.begun
    assert train["id"] != evaluation["id"]
    assert train["group"] == evaluation["group"] == train["id"]


def test_tensorboard_goes_on_in_its_folder(tmp_path: Path) -> None:
    """Steps that are taken again would stand in the curve twice."""
    recipe = load_recipe("clip_toy", [])
    for purge, steps in ((1, range(1, 6)), (4, range(4, 8))):
        with closing(Board(tmp_path, recipe, purge_step=purge)) as board:
            for step in steps:
                board.add({"loss": float(10 * purge + step)}, step)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        *((step, 10.0 + step) for step in (1, 2, 3)),
        *((step, 40.0 + step) for step in (4, 5, 6, 7)),
    ]
    assert not (tmp_path / "wandb_id").exists()


def test_what_is_not_installed_is_said_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job would wait for hours, and fail in its first second."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_tracking(load_recipe("clip_toy", []))
    with pytest.raises(InputError, match=r"tracking\.wandb is seeing, but wandb is not installed: pip install"):
        check_tracking(load_recipe("clip_toy", ["tracking.wandb=seeing"]))
