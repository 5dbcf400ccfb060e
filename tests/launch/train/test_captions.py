"""A run whose first stage trains the text tower, too: both stages, resumed to the bit, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pineco.pretrain.checkpoint import list_checkpoints
from pineco.pretrain.models.clip import build_clip
from tests.support.commands import command
from tests.support.ranks import TINY_CLIP
from tests.support.toy_worlds import TABLE, older_world

main = command("train")

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(toy_world: Path) -> Arguments:
    """arguments(recipe, *overrides): a run that takes a second, on the tiny world unless they say another."""

    def make(recipe: str, *overrides: str, world: Path = toy_world) -> list[str]:
        settings = json.loads((world / "world.json").read_text())["settings"]
        shared = [f"model={TINY_CLIP}", f"toy_world.root={world}", "engine.kind=local", "engine.device=cpu"]
        shared += [f"toy_world.settings.{key}={value}" for key, value in settings.items()]
        small = ["data.batch_size=8", "data.lanes=4", "schedule.warmup=1", "evaluation.tasks=null", "log_every=1"]
        return [recipe, *shared, *small, *overrides]

    return make


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run / "checkpoints")[-1].export / "open_clip_model.safetensors")


def _rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_both_towers_reach_the_second_stage(arguments: Arguments, tmp_path: Path) -> None:
    """The recipe would train a text tower on prompts, and CLIP start from another one; or nobody see the two losses."""
    first = "data.batch_size=8,data.lanes=4,schedule.epochs=1,log_every=1"
    still = ["schedule.steps=1", "optimizer.lr=1e-30", f"init_overrides=[{first}]"]  # the second stage stands still
    run = tmp_path / "run"
    assert main([*arguments("clip_toy_captions", *still), "--run-dir", str(run)]) == 0
    start, stage1, stage2 = build_clip(TINY_CLIP, 42).state_dict(), _weights(run / "init"), _weights(run)
    for name, tensor in stage1.items():
        assert not torch.equal(tensor, start[name]), name
        assert torch.equal(stage2[name], tensor), name
    row = _rows(run / "init")[0]
    assert row["loss"] > row["caption_loss"] > 0  # type: ignore[operator]
    assert row["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert "different prompts" in (run / "init" / "run.log").read_text()


def test_a_first_stage_with_captions_resumes_to_the_bit(arguments: Arguments, tmp_path: Path) -> None:
    """A resumed run would be another run: losses, weights and moments of the text tower, too."""
    saved = ["schedule.steps=5", "checkpoint.every_epochs=null", "checkpoint.every_steps=2"]
    command = arguments("pi_toy_captions", *saved)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*command, "--run-dir", str(whole)]) == 0
    shutil.copytree(whole, broken)
    for checkpoint in list_checkpoints(broken / "checkpoints")[1:]:
        shutil.rmtree(checkpoint.path)
    assert main([*command, "--run-dir", str(broken), "--resume"]) == 0
    assert [row["loss_hex"] for row in _rows(broken)] == [row["loss_hex"] for row in _rows(whole)]
    ends = [list_checkpoints(run / "checkpoints")[-1].path / "manifest.json" for run in (whole, broken)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_an_older_toy_world_serves_every_older_recipe(arguments: Arguments, toy_world: Path, tmp_path: Path) -> None:
    """Everybody would have to make the toy world again; or its runs would not be the same runs."""
    older, losses = older_world(toy_world, tmp_path / "world"), []
    for name, world in (("new", toy_world), ("old", older)):
        command = arguments("pi_toy", "schedule.steps=2", world=world)
        assert main([*command, "--run-dir", str(tmp_path / name)]) == 0
        losses.append([row["loss_hex"] for row in _rows(tmp_path / name)])
    assert losses[0] == losses[1]


def test_an_older_toy_world_says_what_captions_lack(
    arguments: Arguments, toy_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would see a traceback, or not know that the folder has to go."""
    older = older_world(toy_world, tmp_path / "world")
    assert main([*arguments("pi_toy_captions", world=older), "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pineco: {older / TABLE}: no column prompt")
    assert "of a toy world delete the folder" in line
    assert not (tmp_path / "run").exists()


def _without_a_prompt(root: Path) -> str:
    path = root / "triplets.csv"
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].rpartition(",")[0] + ",\n"
    path.write_text("".join(lines))
    return "triplets.csv: line 4: the prompt is empty"


def test_an_empty_prompt_is_one_line(
    arguments: Arguments, toy_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would see a traceback in the middle of an epoch; the same table must do where no prompt is read."""
    root = shutil.copytree(toy_world / "shards" / "triplets", tmp_path / "triplets")
    said = _without_a_prompt(root)
    command = arguments("pi_toy_captions", f"data.root={root}", "schedule.steps=1", "--run-dir", str(tmp_path / "run"))
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pineco: ")
    assert said in line
    assert main([*command, "objective.caption_weight=0"]) == 0


def test_a_bad_template_is_one_line(arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All images would be learnt under one caption."""
    command = arguments("pi_toy_captions", "data.caption=an image", "--run-dir", str(tmp_path / "run"))
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pineco: pi_toy_captions: data.caption is 'an image'; {} must stand in it once")
