"""The whole run: stages, resume, interruption, refusals, and what is left in the run directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pineco.evals.models.perceptual import load_perceptual
from pineco.launch.train.training import checkpoint_due, total_steps
from pineco.pretrain.checkpoint import list_checkpoints
from pineco.pretrain.recipe.load import load_recipe
from tests.support.commands import command
from tests.support.processes import start_run
from tests.support.ranks import TINY_CLIP
from tests.support.s3 import S3Server, in_thread

main = command("train")

STEPS = 12
TIMEOUT = 240


@pytest.fixture
def small(toy_world: Path) -> list[str]:
    """A recipe that trains in a second: tiny model, tiny world, one zero-shot set."""
    settings = json.loads((toy_world / "world.json").read_text())["settings"]
    return [
        "clip_toy",
        f"model={TINY_CLIP}",
        f"toy_world.root={toy_world}",
        *(f"toy_world.settings.{key}={value}" for key, value in settings.items()),
        "data.batch_size=16",
        "data.lanes=8",
        "init=random",
        f"schedule.steps={STEPS}",
        "schedule.warmup=2",
        "checkpoint.every_epochs=null",
        "checkpoint.every_steps=4",
        "evaluation.tasks=toy_shapes",
        "log_every=1",
        "engine.device=cpu",
    ]


def _losses(directory: Path) -> dict[int, str]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert len({row["step"] for row in rows}) == len(rows), "a step stands in the file twice"
    return {row["step"]: row["loss_hex"] for row in rows}


def _manifest(directory: Path) -> dict[str, object]:
    checkpoint = list_checkpoints(directory / "checkpoints")[-1]
    return dict(json.loads((checkpoint.path / "manifest.json").read_text())["files"])


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


@pytest.mark.parametrize("engine", ["engine.zero_stage=1", "engine.kind=local"])
def test_interrupted_and_killed_runs_go_on_bit_identically(engine: str, small: list[str], tmp_path: Path) -> None:
    """A resumed run would be another run: losses, weights, moments and data order must be those of R0."""
    arguments = [*small, engine]
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    start = start_run([*arguments, "--run-dir", str(whole)], log)
    start.join(TIMEOUT)
    assert start.exitcode == 0, log.read_text()

    first = start_run([*arguments, "--run-dir", str(broken)], log)
    _wait(lambda: (broken / "metrics.jsonl").is_file() or not first.is_alive())
    os.kill(first.pid or 0, signal.SIGINT)
    first.join(TIMEOUT)
    assert first.exitcode == 130, log.read_text()
    assert "--resume" in log.read_text().splitlines()[-1]
    stood = list_checkpoints(broken / "checkpoints")[-1].step
    assert stood < STEPS

    second = start_run([*arguments, "--run-dir", str(broken), "--resume"], log)
    _wait(lambda: list_checkpoints(broken / "checkpoints")[-1].step > stood or not second.is_alive())
    second.kill()
    second.join(TIMEOUT)
    assert second.exitcode == -signal.SIGKILL, "the kill came too late to test anything"

    last = start_run([*arguments, "--run-dir", str(broken), "--resume"], log)
    last.join(TIMEOUT)
    assert last.exitcode == 0, log.read_text()
    assert _losses(broken) == _losses(whole)
    assert list(_losses(whole)) == list(range(1, STEPS + 1))
    assert _manifest(broken) == _manifest(whole)
    assert len((broken / "code.jsonl").read_text().splitlines()) == 3


def test_a_run_from_s3_is_the_run_from_disk(
    small: list[str], toy_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of the data would change what is trained: both stages, losses to the last bit, final weights."""
    both = ["init=perceptual", "engine.kind=local", f"schedule.steps={STEPS // 2}"]
    first = ["data.batch_size=16", "data.lanes=8", "schedule.epochs=1", "log_every=1"]
    disk, s3 = tmp_path / "disk", tmp_path / "s3"
    assert main([*small, *both, f"init_overrides=[{','.join(first)}]", "--run-dir", str(disk)]) == 0
    with in_thread(S3Server(toy_world.parent).answer) as url:
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        for name, value in {"AWS_ENDPOINT_URL": url, "AWS_REGION": "test-region-1", **keys}.items():
            monkeypatch.setenv(name, value)
        bucket = f"s3://{toy_world.name}"
        overrides = f"init_overrides=[{','.join([*first, f'data.root={bucket}/shards/triplets'])}]"
        assert main([*small, *both, f"data.root={bucket}/pairs/train", overrides, "--run-dir", str(s3)]) == 0
    rows = [json.loads(line) for line in (s3 / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["data_bytes_per_second"] for row in rows) > 0, "it did not read from S3"
    for stage in ("", "init"):
        assert _losses(disk / stage) == _losses(s3 / stage)
        assert _manifest(disk / stage) == _manifest(s3 / stage)


def test_two_ranks_train_as_one_rank_does(small: list[str], tmp_path: Path) -> None:
    """A launcher's ranks would train something else than the recipe: same batches, same global loss."""
    arguments, log = [*small, "engine.precision=fp32", "schedule.steps=4", "engine.zero_stage=2"], tmp_path / "log"
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000), "WORLD_SIZE": "2"}
    ranks = [
        start_run([*arguments, "--run-dir", str(tmp_path / "two")], log, {**port, "RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(2)
    ]
    one = start_run([*arguments, "--run-dir", str(tmp_path / "one")], log)
    for process in (*ranks, one):
        process.join(TIMEOUT)
        assert process.exitcode == 0, log.read_text()
    both = [[float.fromhex(x) for x in _losses(tmp_path / name).values()] for name in ("one", "two")]
    assert both[1] == pytest.approx(both[0], rel=1e-4)


def test_main_job_chains_evaluates_and_reports(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stages, reports or the run directory's files would be missing where people look for them."""
    run = tmp_path / "run"
    chain = [*small, "init=perceptual", "schedule.steps=4", "checkpoint.every_steps=2", "engine.kind=local"]
    chain += ["init_overrides=[data.batch_size=8,data.lanes=8,schedule.epochs=1]", "--run-dir", str(run)]
    assert main(chain) == 0
    for name in ("recipe.yaml", "code.jsonl", "run.log", "metrics.jsonl", "report.md", "report.json", "curve.svg"):
        assert (run / name).stat().st_size > 0, name
    assert any((run / "tensorboard").iterdir())
    assert list_checkpoints(run / "init" / "checkpoints")
    assert [c.step for c in list_checkpoints(run / "checkpoints")] == [2, 4]
    steps = [report["step"] for report in json.loads((run / "report.json").read_text())]
    assert steps == [2, 4]
    assert "toy_shapes" in (run / "report.md").read_text()
    assert str(run / "report.md") in capsys.readouterr().out.replace("\n", "")

    before = (run / "checkpoints" / "step_00000004" / "manifest.json").stat().st_mtime_ns
    assert main([*chain, "--resume"]) == 0, "a finished run is reused"
    assert (run / "checkpoints" / "step_00000004" / "manifest.json").stat().st_mtime_ns == before

    (run / "reports" / "step_00000002.json").unlink()
    assert main([*chain, "--resume"]) == 0, "what was saved but not measured is measured"
    assert [report["step"] for report in json.loads((run / "report.json").read_text())] == steps

    assert main(chain) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main([*chain, "--resume", "seed=1"]) == 2
    assert "another recipe (seed is 1, there it is 42)" in capsys.readouterr().err


def test_a_run_is_aligned_and_read_as_a_distance(small: list[str], tmp_path: Path) -> None:
    """`make align` would align random weights, could not be resumed, or evals could not read what it exports."""
    run = tmp_path / "run"
    inner = ["init=random", "data.batch_size=8", "data.lanes=8", "schedule.steps=2", "evaluation.tasks=null"]
    own = ("init", "data.batch_size", "evaluation.tasks")
    shared = [item for item in small[1:] if item.partition("=")[0] not in own]
    recipe = ["align_tiny", *shared, "data.batch_size=8", "objective.image_size=32", "engine.kind=local"]
    recipe += [f"init_overrides=[{','.join(inner)}]", "--run-dir", str(run)]
    assert main(recipe) == 0
    first, last = (list_checkpoints(folder / "checkpoints")[-1].export for folder in (run / "init", run))
    assert "triplets of split 'train'" in (run / "run.log").read_text()
    before, after = load_perceptual(str(first), features="embedding"), load_perceptual(str(last))
    images = torch.rand(2, 3, 32, 32)
    moved = (before(images[:1], images[1:]) - after(images[:1], images[1:])).abs()
    assert 0 < float(moved) < 0.5, "not aligned, or not started from the first stage"
    again = _manifest(run)
    shutil.rmtree(list_checkpoints(run / "checkpoints")[-1].path)
    assert main([*recipe, "--resume"]) == 0
    assert _manifest(run) == again


def test_init_changes_the_start_and_nothing_else(small: list[str], tmp_path: Path) -> None:
    """perceptual, shuffled_triplets and random would not be comparable, or not differ at all."""
    first = "init_overrides=[data.batch_size=8,data.lanes=8,schedule.epochs=2]"
    losses = {}
    for init in ("random", "perceptual", "shuffled_triplets"):
        run = tmp_path / init
        assert (
            main([*small, f"init={init}", first, "schedule.steps=2", "engine.kind=local", "--run-dir", str(run)]) == 0
        )
        losses[init] = _losses(run)[1]
        votes = (run / "init" / "recipe.yaml").read_text() if init != "random" else ""
        assert ("shuffled: true" in votes) == (init == "shuffled_triplets")
    assert len(set(losses.values())) == 3


REFUSALS = {
    "unknown key": (["data.batchsize=1"], "unknown key data.batchsize"),
    "unknown task": (["evaluation.tasks=toy_shape"], "toy_shape"),
    "missing folder": (["data.root=/nowhere/shards"], "/nowhere/shards: no such folder"),
    "unknown model": (["model=ViT-B-33"], "ViT-B-33"),
    "missing first stage": (["init=perceptual", "init_checkpoint=/nowhere"], "/nowhere"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake would end in a traceback, or in a half-written run that blocks the next try."""
    overrides, part = REFUSALS[case]
    assert main([*small, *overrides, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("pineco: ")
    assert part in error
    assert case == "missing first stage" or not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "part"), [(None, "holds no *.tar"), (b"no tar at all" * 100, "00000.tar: at byte 0")]
)
def test_bad_shards_are_named(
    content: bytes | None, part: str, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder or a file that is no tar would give an empty epoch."""
    shards = tmp_path / "shards"
    shards.mkdir()
    if content is not None:
        (shards / "00000.tar").write_bytes(content)
    assert main([*small, f"data.root={shards}", "--run-dir", str(tmp_path / "run")]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_refused(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped byte would be trained on."""
    command = [*small, "engine.kind=local", "schedule.steps=2", "--run-dir", str(tmp_path / "run")]
    assert main(command) == 0
    weights = list_checkpoints(tmp_path / "run" / "checkpoints")[-1].export / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main([*command, "--resume"]) == 2
    assert "open_clip_model.safetensors: damaged" in capsys.readouterr().err


def test_a_run_that_diverges_saves_nothing(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of NaN weights would replace a good one."""
    command = [*small, "optimizer.lr=1e30", "engine.kind=local", "--run-dir"]
    assert main([*command, str(tmp_path / "logged")]) == 2
    assert "loss is nan" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "unlogged"), "log_every=100"]) == 2
    assert "not finite, the run has diverged; there is no older checkpoint" in capsys.readouterr().err
    for name in ("logged", "unlogged"):
        assert not list_checkpoints(tmp_path / name / "checkpoints")


def test_places_that_cannot_be_written_are_one_line(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the way, or a read-only disk, would end in a traceback."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        assert main([*small, "--run-dir", str(place)]) == 2
        assert str(tmp_path / "file") in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_row_cut_by_a_crash_does_not_bar_a_resume(small: list[str], tmp_path: Path) -> None:
    """A power cut in the middle of a line would make the run unresumable."""
    command = [*small, "engine.kind=local", "schedule.steps=4", "--run-dir", str(tmp_path / "run")]
    assert main(command) == 0
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')
    assert main([*command, "--resume"]) == 0
    assert list(_losses(tmp_path / "run")) == [1, 2, 3, 4]


def test_checkpoints_fall_on_epochs() -> None:
    """A checkpoint would be missed where accumulation does not divide an epoch."""
    recipe = load_recipe("clip_toy", ["data.accumulation=2", "schedule.epochs=4", "checkpoint.every_epochs=1"])
    assert total_steps(recipe, batches_per_epoch=7) == 14
    due = [s for s in range(1, 15) if checkpoint_due(s, recipe=recipe, batches_per_epoch=7, steps=14)]
    assert due == [4, 7, 11, 14]
