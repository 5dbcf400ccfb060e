"""Runs on a real SLURM of two virtual nodes: whatever happens to them, they end as the undisturbed run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from launch import submit
from launch.attempts import Attempt, read_attempts
from launch.cluster import Cluster, load_cluster
from launch.heartbeat import read_beats
from launch.slurm import check_place, job_state, signal_tasks
from launch.spec import JOB, STOP, read_job
from launch.status import main as main_status
from launch.sweep import main as main_sweep
from pretrain.checkpoint import list_checkpoints
from pretrain.recipe import Recipe
from pretrain.recipe_file import load_recipe, recipe_yaml
from tests.support import slurm
from tests.support.ranks import TINY_CLIP

WHY = slurm.missing()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(WHY is not None, reason=f"no SLURM here: {WHY}"),
]
STEPS, SHORT, WAIT = 30, 6, 240
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two idle nodes, and how to use them."""
    patch = pytest.MonkeyPatch()
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as environment, patch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        yield load_cluster("virtual", ["limits.step=12", "limits.save=30"])


@pytest.fixture(scope="module")
def recipe(toy_world: Path) -> Recipe:
    world = json.loads((toy_world / "world.json").read_text())["settings"]
    options = [
        f"model={TINY_CLIP}",
        f"toy_world.root={toy_world}",
        *(f"toy_world.settings.{key}={value}" for key, value in world.items()),
        *("data.batch_size=16", "data.lanes=8", "init=random", f"schedule.steps={STEPS}", "schedule.warmup=2"),
        *("checkpoint.every_epochs=null", "checkpoint.every_steps=5", "evaluation.tasks=null", "log_every=1"),
        "engine.device=cpu",
    ]
    return load_recipe("clip_toy", options)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R0: what every other run must end as."""
    run = tmp_path_factory.mktemp("r0") / "run"
    job = submit.submit(recipe, run, cluster, 2)
    assert ended(job) == "COMPLETED", said(run)
    assert [a.cause for a in read_attempts(run / JOB)] == ["done"]
    return run


def ended(job: str) -> str:
    """How a job ended; PREEMPTED and NODE_FAIL are no end, it comes back."""
    wait(lambda: job_state(job) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"))
    return job_state(job) or ""


def wait(condition: Callable[[], object], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def said(run: Path) -> str:
    """What the job and its ranks wrote: for the message of a test that fails."""
    paths = [*(run / JOB / "submitit").glob("*.out"), *(run / JOB / "logs").glob("*.log")]
    return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in paths)


def reached(run: Path, step: int) -> Callable[[], bool]:
    """Whether both ranks have taken so many steps."""

    def ask() -> bool:
        beats = read_beats(run / JOB)
        rows = run / "metrics.jsonl"
        return len(beats) == 2 and rows.is_file() and len(rows.read_text().splitlines()) >= step

    return ask


def losses(run: Path) -> dict[int, str]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({row["step"] for row in rows}) == len(rows), "a step stands in the file twice"
    return {row["step"]: row["loss_hex"] for row in rows}


def assert_same(run: Path, other: Path) -> None:
    """Losses to the last bit, and every byte of the last checkpoint."""
    assert losses(run) == losses(other)
    ours, theirs = (list_checkpoints(path / "checkpoints")[-1] for path in (run, other))
    files = [json.loads((c.path / "manifest.json").read_text())["files"] for c in (ours, theirs)]
    assert files[0] == files[1]


def disturbed(
    recipe: Recipe, cluster: Cluster, run: Path, disturb: Callable[[str], None], step: int = 7
) -> tuple[str, list[Attempt]]:
    """A run that something happens to after some steps: (how its job ended, its attempts)."""
    job = submit.submit(recipe, run, cluster, 2)
    wait(reached(run, step))
    disturb(job)
    return ended(job), read_attempts(run / JOB)


def test_two_nodes_are_two_ranks_of_this_machine(undisturbed: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Where a run executes would change its numbers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "launch.run"]
    arguments = [str(undisturbed / JOB / "recipe.yaml"), "--run-dir", str(tmp_path / "here")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *arguments], cwd=ROOT, env=environment, check=True, timeout=WAIT)
    assert_same(undisturbed, tmp_path / "here")
    assert len(losses(undisturbed)) == STEPS


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_costs_one_start(
    undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path, rank: int
) -> None:
    """F1, F2: a dead rank would hold the others for ever, or its steps would be lost or taken twice."""
    run, killed = tmp_path / "run", []

    def kill(job: str) -> None:
        pid = read_beats(run / JOB)[rank].pid
        os.kill(pid, signal.SIGKILL)
        killed.append((pid, time.time()))

    state, attempts = disturbed(recipe, cluster, run, kill)
    assert (state, [a.cause for a in attempts]) == ("COMPLETED", ["killed", "done"]), said(run)
    assert killed
    assert (attempts[0].ended or 0) - killed[0][1] < 15
    assert attempts[1].from_step == attempts[0].to_step >= 5
    assert_same(run, undisturbed)


def test_a_rank_that_stops_is_found(undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """F4: two nodes would wait for a stuck one until the time limit, and nobody would know where."""
    run = tmp_path / "run"
    state, attempts = disturbed(recipe, cluster, run, lambda job: os.kill(read_beats(run / JOB)[1].pid, signal.SIGSTOP))
    assert (state, [a.cause for a in attempts]) == ("COMPLETED", ["hang", "done"]), said(run)
    assert "rank 1 hangs" in attempts[0].why
    assert_same(run, undisturbed)
    stacks = (run / JOB / "stacks").glob("rank_00000.*")
    assert any("most recent call first" in path.read_text() for path in stacks), "no stack of the rank that waited"


def test_a_straggler_is_left_alone(undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """F5: every slow moment of a file system would cost a restart."""
    run = tmp_path / "run"

    def pause(job: str) -> None:
        pid = read_beats(run / JOB)[1].pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(8)
        os.kill(pid, signal.SIGCONT)

    state, attempts = disturbed(recipe, cluster, run, pause)
    assert (state, [a.cause for a in attempts]) == ("COMPLETED", ["done"]), said(run)
    assert "rank 1 shows no life" in said(run)
    assert_same(run, undisturbed)


def test_a_more_urgent_job_takes_the_nodes(undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """F8: a preempted run would lose the steps since its last checkpoint, or not come back."""
    run = tmp_path / "run"

    def preempt(job: str) -> None:
        urgent = ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
        subprocess.run(urgent, check=True, capture_output=True)

    state, attempts = disturbed(recipe, cluster, run, preempt)
    assert (state, attempts[-1].cause) == ("COMPLETED", "done"), said(run)
    assert len(attempts) == 2
    assert attempts[0].cause == "saved", said(run)
    assert_same(run, undisturbed)


def test_signals_without_end(undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """F7: a second warning would kill the ranks in the middle of the checkpoint that the first one asked for."""
    run = tmp_path / "run"

    def warn(job: str) -> None:
        for _ in range(3):
            signal_tasks(job, "USR2")
            time.sleep(0.1)

    state, attempts = disturbed(recipe, cluster, run, warn)
    assert (state, [a.cause for a in attempts]) == ("COMPLETED", ["saved", "done"]), said(run)
    assert_same(run, undisturbed)


def test_stop_and_resume(undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """A run that was told to stop would come back by itself, or begin anew when asked to go on."""
    run = tmp_path / "run"

    def stop(job: str) -> None:
        (run / JOB / STOP).touch()
        signal_tasks(job, "USR2")

    state, attempts = disturbed(recipe, cluster, run, stop)
    assert (state, [a.cause for a in attempts]) == ("COMPLETED", ["saved"]), said(run)
    assert attempts[0].to_step < STEPS
    assert ended(submit.submit(recipe, run, cluster, 2)) == "COMPLETED", said(run)
    assert_same(run, undisturbed)


def test_the_same_error_twice_is_given_up(
    cluster: Cluster, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11: a bug would be restarted until the allocation is used up."""
    copy = submit.copy_code

    def copy_with_a_bug(folder: Path) -> None:
        copy(folder)
        trainer = folder / "pretrain" / "trainer.py"
        mark = "        for hook in hooks:\n"
        text = trainer.read_text()
        assert mark in text
        trainer.write_text(
            text.replace(mark, f'        if state.step == 7:\n            raise KeyError("bug")\n{mark}')
        )

    monkeypatch.setattr(submit, "copy_code", copy_with_a_bug)
    run = tmp_path / "run"
    assert ended(submit.submit(recipe, run, cluster, 2)) == "FAILED"
    attempts = read_attempts(run / JOB)
    assert [a.cause for a in attempts] == ["crash", "crash"], said(run)
    assert "KeyError: 'bug'" in (attempts[0].crash or "")
    assert "given up: the same error twice" in said(run)


def test_a_sweep_its_evaluations_and_its_table(
    cluster: Cluster,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Runs of one array would share a directory or a seed, or their checkpoints would never be measured."""
    settings = [f"schedule.steps={SHORT}", f"checkpoint.every_steps={SHORT}", "evaluation.tasks=toy_shapes"]
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe))
    grid = {"seed": [1, 2, 3], "optimizer.lr": [0.001, 0.002]}
    sweep = {"recipe": str(tmp_path / "recipe.yaml"), "nodes": 1, "overrides": settings, "grid": grid}
    (tmp_path / "six.yaml").write_text(json.dumps(sweep))
    assert main_sweep([str(tmp_path / "six.yaml"), "--cluster", "virtual", "--root", str(tmp_path / "runs")]) == 0
    runs = sorted((tmp_path / "runs" / "six").glob("seed=*"))
    assert len(runs) == 6
    wait(lambda: all(list((run / "reports").glob("step_*.json")) for run in runs))
    wait(lambda: all(job_state(str(read_job(run))) == "COMPLETED" for run in runs))
    assert len({next(iter(losses(run).values())) for run in runs}) == 3, "seeds"
    assert len({losses(run)[SHORT] for run in runs}) == 6, "learning rates"
    assert all([a.cause for a in read_attempts(run / JOB)] == ["done"] for run in runs)
    capsys.readouterr()
    assert main_status(["--root", str(tmp_path / "runs")]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if "seed=" in line]
    assert len(shown) == 6
    assert all("completed" in line and f"{SHORT}/{SHORT}" in line and f"step {SHORT}" in line for line in shown)


def test_what_cannot_run_is_not_submitted(cluster: Cluster, recipe: Recipe) -> None:
    """A job would wait for hours, and fail in its first second or never start."""
    with pytest.raises(InputError, match=r"NODES=3: partition main has 2"):
        check_place(cluster, 3)
    with pytest.raises(InputError, match=r"partition fast: not of this cluster; set partition to one of main, urgent"):
        check_place(replace(cluster, partition="fast"), 1)
    with pytest.raises(InputError, match=r"time is 3:00:00: partition urgent allows 60 minutes"):
        check_place(replace(cluster, partition="urgent", time="3:00:00"), 1)
    check_place(cluster, 2)
