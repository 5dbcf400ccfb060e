"""The plan of a NeCo run: its figures beside the published ones, what it refuses, and that it imports no torch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.shard_set import open_shards
from pineco.launch.cluster import load_cluster
from pineco.launch.plan.model_size import NoEstimateError, model_size
from pineco.launch.plan.neco_work import MEASURED, core_seconds, neco_work
from pineco.launch.plan.plan import Plan, plan
from pineco.launch.plan.timm_size import timm_tower
from pineco.launch.submit import submit
from pineco.pretrain.recipe.data import MultiCropSettings
from pineco.pretrain.recipe.load import load_recipe, recipe_names
from pineco.pretrain.recipe.settings import Recipe
from tests.support.commands import command

main = command("plan")

LARGE, SMALL = "neco_dinov2r_vits14_518", "neco_dinov2r_vits14_224"
S = timm_tower("vit_small_patch14_reg4_dinov2", 518)
HEAD = 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256
N, D, PAIRS = 49, 256, 10


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PINECO_BACKBONE", "PINECO_IMAGES", "PINECO_DATA"):
        monkeypatch.setenv(name, "/nowhere")


def _plan(name: str, *overrides: str, nodes: int = 1, **known: Any) -> Plan:
    return plan(load_recipe(name, [*overrides]), load_cluster("default"), nodes, **known)


def _bytes(made: Plan, what: str) -> float:
    return made.line(what).value * 2**30


def test_a_step_takes_what_is_published() -> None:
    """Hours and costs would be off: about 49 TFLOP in the backbones at 518 px and 8 at 224 px, with a batch of 64."""
    for name, published in ((LARGE, 49), (SMALL, 8)):
        made = _plan(name, "data.batch_size=64", "data.lanes=64")
        backbones = made.line("student").value + made.line("teacher").value
        assert 64 * backbones / 1e3 == pytest.approx(published, rel=0.05)
        heads, sorts = made.line("heads").value, made.line("sorts and similarities").value
        assert sorts < heads / 10
        rate = made.line("samples/s a GPU").value
        assert rate == pytest.approx(989e3 * 0.25 / (backbones + heads + sorts))


def test_the_plan_of_the_published_recipe_on_one_node() -> None:
    """Eight images a rank decide memory; every line is what its formula says."""
    made, b = _plan(LARGE), 8
    trained = S.parameters + HEAD
    assert _bytes(made, "weights") == pytest.approx(4 * trained)
    assert _bytes(made, "Adam's moments") == pytest.approx(8 * trained)
    assert _bytes(made, "teacher's weights") == pytest.approx(4 * trained)
    assert _bytes(made, "queue") == pytest.approx(2 * 8192 * D * 4)
    assert _bytes(made, "patches of pairs") == pytest.approx(PAIRS * b * N * D * 4)
    assert _bytes(made, "references") == pytest.approx(PAIRS * b * N * D * 4)
    parts = [line.value for line in made.lines if line.group == "memory" and line.what != "memory a rank"]
    assert made.line("memory a rank").value == pytest.approx(sum(parts))
    assert made.line("activations").formula.startswith("b a = 8 x")
    assert made.line("checkpoint").value * 1e9 == pytest.approx(16 * trained + 2 * 8192 * D * 4)
    assert made.line("steps").value == 25 * (118_287 // 64)
    assert made.line("samples").care is not None, "it is a guess"
    assert made.line("lanes a rank").care is None, "18 GB in 64 lanes: a lane has less than a block"
    assert made.line("patches a node").value == 0, "there is one node"
    two = _plan(LARGE, nodes=2).line("patches a node").value
    assert two * 1e9 == pytest.approx(2 * 64 * 10 * D * 4 / 2)


def test_kept_activations_are_those_of_the_layers() -> None:
    """Memory would be that of other views: 2 x 518 px and 4 x 98 px, 12 layers of 22 w + 4 h + 4 w bytes a token."""
    layers = 12 * 384 * (22 + 16 + 4) * (2 * (37 * 37 + 5) + 4 * (7 * 7 + 5))
    found = neco_work(load_recipe(LARGE)).activations
    assert 1.0 < found / layers < 1.4, "the head, a layer's gradients and the pixels come to that"


def test_what_is_computed_again_is_not_kept() -> None:
    """The setting that lets a run fit would not show, or would seem to cost nothing."""
    plain, again = neco_work(load_recipe(LARGE)), neco_work(load_recipe(LARGE, ["objective.checkpointing=true"]))
    assert again.activations < 0.4 * plain.activations
    assert 1.15 < again.flops / plain.flops < 1.3
    assert (plain.saving, again.saving) == ("objective.checkpointing=true", "")


def test_frozen_blocks_cost_a_forward_pass_alone() -> None:
    """A run of the last blocks would be planned as one of all: its speed, its memory and its moments."""
    whole, last = neco_work(load_recipe(LARGE)), neco_work(load_recipe(LARGE, ["objective.trainable_blocks=2"]))
    assert last.trained == 2 * S.layer_parameters + HEAD
    assert last.parameters == whole.parameters
    student = [work.parts[0].value for work in (whole, last)]
    layers = 2 * (2 * S.at(518).layer_flops + 4 * S.at(98).layer_flops)
    assert student[1] == pytest.approx(student[0] / 3 + 2 * layers)
    assert last.activations < whole.activations / 2


def test_no_teacher_leaves_its_copy_out_and_its_pass_in() -> None:
    """The ablation would be planned with a copy that it does not have."""
    options = ["data.batch_size=8", "data.lanes=8"]
    kept, none = (_plan(SMALL, *options, f"objective.teacher={teacher}") for teacher in (True, False))
    assert kept.line("teacher's weights").value > 0
    with pytest.raises(KeyError):
        none.line("teacher's weights")
    assert kept.line("memory a rank").value > none.line("memory a rank").value
    assert kept.line("checkpoint").value > none.line("checkpoint").value
    assert kept.line("samples/s a GPU").value == none.line("samples/s a GPU").value


def test_references_of_a_batch_are_those_of_all_ranks() -> None:
    """Each rank holds the patches of the whole batch, and every node gets them: with the queue it is neither."""
    options = ["data.batch_size=64", "data.lanes=64"]
    queue, batch = (_plan(SMALL, *options, f"objective.references={r}", nodes=2) for r in ("queue", "batch"))
    assert batch.line("references").value == pytest.approx(16 * queue.line("references").value)
    gathered = batch.line("patches a node").value * 1e9
    assert gathered == pytest.approx(64 * PAIRS * N * D * 4 / 2)


def test_a_clips_text_tower_is_held_and_not_trained() -> None:
    """It would be given moments, or be forgotten in memory and in the checkpoint."""
    size, work = model_size("vit_toy_p8_64"), neco_work(load_recipe("neco_tiny"))
    head = work.parameters - size.parameters
    assert work.exported == size.parameters
    assert work.trained == size.vision.parameters - 128 * size.embed_dim + head
    assert work.kept is not None
    assert work.kept.value == 4 * work.parameters + 2 * 2048 * 64 * 4


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("neco")])
def test_every_neco_recipe_has_a_plan(name: str) -> None:
    """A recipe of this repository would be submitted without an estimate."""
    whole = [f"data.batch_size={math.lcm(load_recipe(name).data.batch_size, 8)}"]  # of 8 GPUs
    cluster = load_cluster("virtual" if "tiny" in name else "default")
    made = plan(load_recipe(name, whole), cluster, 1)
    assert made.line("hours", name).value > 0
    assert all(line.value >= 0 for line in made.lines)


def test_cores_are_those_that_were_measured() -> None:
    """A run would wait for its data: 4.5 to 5 ms of a core for an image's views at 224 px, 15 ms at 518 px."""
    assert core_seconds(MultiCropSettings()) == pytest.approx(4.75e-3)
    assert core_seconds(MultiCropSettings(global_size=518)) == pytest.approx(15e-3)
    assert core_seconds(MultiCropSettings(local_crops=0)) < 4.75e-3
    assert [pixels for pixels, _ in MEASURED] == [138_768, 575_064]
    made = _plan(LARGE, "data.workers=1")
    cores = made.line("cores that decode, a node")
    assert cores.value == pytest.approx(8 * made.line("samples/s a GPU").value * 15e-3)
    assert "raise data.workers" in str(cores.care)


def test_the_data_is_looked_up_before_it_is_guessed(toy_world: Path) -> None:
    """COCO's number would be taken for that of a folder that is there, or of a toy world that is yet to be made."""
    guess = _plan(LARGE)
    assert (guess.line("samples").value, guess.line("a sample").value) == (118_287, 152)
    assert _plan(LARGE, samples=1000, sample_bytes=5e4).line("samples").care is None
    options = ["init=random", "data.batch_size=16", "data.lanes=8"]
    cluster = load_cluster("virtual")
    there = plan(load_recipe("neco_tiny", [*options, f"toy_world.root={toy_world}"]), cluster, 2)
    index = open_shards(str(toy_world / "pairs" / "train")).index
    assert there.line("samples").value == len(index) == 64
    assert there.line("a sample").value == pytest.approx(index.shard_bytes / 64 / 1e3)
    missing = plan(load_recipe("neco_tiny", [*options, "toy_world.root=/nowhere"]), cluster, 2)
    assert missing.line("a sample").value == 60, "as for every other objective on the toy world"
    world = load_recipe("neco_tiny").toy_world
    assert world is not None
    assert missing.line("samples").value == world.settings.train_pairs


def test_the_first_stage_is_planned_with_its_own_work(toy_world: Path) -> None:
    """The triplets of its first stage would be planned as views of images."""
    overrides = [f"toy_world.root={toy_world}", "init_overrides=[data.batch_size=8,data.lanes=4]"]
    recipe = load_recipe("neco_tiny", [*overrides, "data.batch_size=16", "data.lanes=4"])
    made = plan(recipe, load_cluster("virtual"), 2)
    assert [*dict.fromkeys(line.stage for line in made.lines)] == ["pi_toy", "neco_tiny"]
    assert not [line for line in made.lines if line.stage == "pi_toy" and line.what in ("queue", "student")]
    assert made.line("queue", "neco_tiny").value > 0


REFUSED = {
    "memory": (
        ["data.batch_size=2048", "data.lanes=64", "objective.queue=20480"],
        r"a rank needs \d+\.\d GiB, \d+\.\d of it for activations, and has 80\.0; .* objective\.checkpointing=true, or",
    ),
    "patch": (["data.local_size=96"], r"data\.local_size is 96; it must be a multiple of the patch, 14 pixels"),
    "blocks": (["objective.trainable_blocks=13"], r"trainable_blocks is 13; this backbone has 12"),
    "no blocks": (["objective.trainable_blocks=0"], r"trainable_blocks is 0; it must be at least 1, or null for all"),
    "model": (["model=timm:vit_giant_patch14_dinov2"], r"vit_giant_patch14_dinov2: no formula .* vit_\{tiny,small"),
    "batch": (["data.batch_size=6", "data.lanes=6"], r"6, no multiple .* pass data\.batch_size=24, or other --nodes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_in_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be refused on the cluster, after the hours in its queue."""
    overrides, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        _plan(LARGE, *overrides)
    assert main([LARGE, *overrides, "--nodes", "1"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("pineco: ")
    assert told.err.count("\n") == 1


def test_checkpointing_is_what_lets_it_fit() -> None:
    """The message would propose what does not help."""
    large = ["data.batch_size=1024", "data.lanes=64", "objective.queue=20480"]
    with pytest.raises(InputError, match=r"objective\.checkpointing=true"):
        _plan(LARGE, *large)
    assert _plan(LARGE, *large, "objective.checkpointing=true").line("memory a rank").value < 80


def _submitted(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    seen: list[Recipe] = []
    monkeypatch.setattr(submit, "check_place", lambda *_: None)

    def take(recipe: Recipe, *_: object) -> str:
        seen.append(recipe)
        return "7"

    monkeypatch.setattr(submit, "submit", take)
    return seen


def test_a_run_without_an_estimate_is_submitted_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A backbone that timm knows and the formulas do not could not be trained on a cluster."""
    seen = _submitted(monkeypatch)
    words = [LARGE, "model=timm:vit_giant_patch14_dinov2", "--nodes", "1", "--run-dir", str(tmp_path / "run")]
    assert command("submit")(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("no estimate of memory, speed and cost")
    assert "vit_giant_patch14_dinov2: no formula for its size" in first
    assert second.startswith("submitted job 7")
    assert len(seen) == 1


def test_a_run_that_does_not_fit_is_not_submitted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It would end in its first step, after the hours in its queue."""
    seen = _submitted(monkeypatch)
    words = [LARGE, "data.batch_size=2048", "objective.queue=20480", "--nodes", "1", "--run-dir", str(tmp_path / "run")]
    assert command("submit")(words) == 2
    assert "of it for activations" in capsys.readouterr().err
    assert not seen


def test_an_objective_without_formulas_has_no_estimate() -> None:
    """Its model would be planned as that of another objective."""
    recipe = load_recipe(LARGE)
    with pytest.raises(NoEstimateError, match="no formula for x, only for clip, perceptual_init, align, neco"):
        plan(replace(recipe, objective=replace(recipe.objective, kind="x")), load_cluster("default"), 1)


def test_a_plan_needs_neither_torch_nor_timm() -> None:
    """A login node would wait seconds for an import, or run out of its memory limit."""
    code = "import sys; from pineco.launch.plan.plan import main; print(main(sys.argv[1:]), sorted(sys.modules))"
    command = [sys.executable, "-c", code, LARGE, "--nodes", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    shown, modules = done.stdout.rsplit("\n", 2)[0], done.stdout.splitlines()[-1]
    assert modules.startswith("0 ")
    assert json.loads(shown)["ranks"] == 8
    assert not [name for name in ("'torch'", "'timm'", "'open_clip'", "'torchvision'") if name in modules]
