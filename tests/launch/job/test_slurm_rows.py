"""Faults in a row, time limits, and what lies in the way of a start, on a real SLURM: runs end as R0 all the same.

`make chaos` takes the lengths of the long rows; CI takes short ones.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pineco.launch.cluster import Cluster
from pineco.launch.rundir.attempts import WITHOUT_PROGRESS, read_attempts
from pineco.launch.rundir.checkpoints import saved_steps
from pineco.launch.rundir.heartbeat import read_beats
from pineco.launch.rundir.layout import ID, JOB
from pineco.launch.submit import submit
from pineco.launch.submit.exclusive import submitting
from pineco.launch.submit.slurm import job_state, signal_tasks
from pineco.pretrain.recipe.load import load_recipe, recipe_yaml
from pineco.pretrain.recipe.settings import Recipe
from tests.support.slurm_runs import (
    assert_same,
    catches,
    disturbed,
    ended,
    kill_rank,
    preempt,
    processes_of,
    said,
    trains,
    wait,
)

pytestmark = [pytest.mark.slurm, pytest.mark.faults]
LONG = "PINECO_CHAOS_SEEDS" in os.environ
LIMITS, KILLS = (6, 30) if LONG else (2, 2)
ONLY_LONG = pytest.mark.skipif(not LONG, reason="takes minutes: make chaos runs it")


def next_attempt(run: Path, job: str, starts: int) -> None:
    """Waits until the attempt after so many trains."""
    wait(lambda: len(read_attempts(run / JOB)) > starts and trains(run, 0)())
    assert job_state(job) == "RUNNING"


def test_time_limits_and_preemptions_in_turn(
    undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path
) -> None:
    """F9: jobs of two minutes would lose its steps at each limit, or be given up for what is no fault."""
    run, starts = tmp_path / "run", 0
    patient = replace(cluster.limits, step=90)
    job = submit.submit(recipe, run, replace(cluster, time="0:02:00", signal_delay=30, limits=patient), 2)
    for number in range(LIMITS):
        next_attempt(run, job, starts)
        starts = len(read_attempts(run / JOB))
        os.kill(read_beats(run / JOB)[1].pid, signal.SIGSTOP)  # else it is done before SLURM acts, which wakes it
        if number % 2:
            preempt(run, job, random.Random(number))
        wait(lambda starts=starts: read_attempts(run / JOB)[starts - 1].ended)  # type: ignore[misc]
    assert ended(job) == "COMPLETED", said(run)
    attempts = read_attempts(run / JOB)
    causes = [a.cause for a in attempts]
    assert causes == ["saved"] * (len(causes) - 1) + ["done"], said(run)
    assert len(causes) > LIMITS, "SLURM may warn more often than asked, never less"
    assert_same(run, undisturbed)


@ONLY_LONG
def test_a_limit_that_comes_before_the_checkpoint(
    undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F9: SLURM ends a job at its limit for good; the steps since the last checkpoint are lost, the run must not be."""
    copy, slow, run = submit.copy_code, tmp_path / "slow", tmp_path / "run"

    def copy_that_saves_slowly(folder: Path) -> None:
        """As a file system that hangs: no checkpoint is written while a file is there."""
        copy(folder)
        path = folder / "pineco" / "launch" / "train" / "checkpointer.py"
        mark = "        exported, training = gather_tensors(self.engine)\n"
        text = path.read_text()
        assert mark in text
        wait_there = (
            f"        while __import__('os').path.exists({str(slow)!r}):\n            __import__('time').sleep(1)\n"
        )
        path.write_text(text.replace(mark, wait_there + mark))

    monkeypatch.setattr(submit, "copy_code", copy_that_saves_slowly)
    patient = replace(cluster, time="0:02:00", signal_delay=30, limits=replace(cluster.limits, step=300, save=300))
    job = submit.submit(recipe, run, patient, 2)
    wait(trains(run, 2))
    slow.touch()
    wait(lambda: read_attempts(run / JOB)[0].ended)
    slow.unlink()
    assert ended(job) == "COMPLETED", said(run)
    attempts = read_attempts(run / JOB)
    assert [a.cause for a in attempts] == ["hang", "done"], said(run)
    assert "time limit" in attempts[0].why
    assert_same(run, undisturbed)


def test_a_kill_after_every_checkpoint(undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """F12: progress between two kills would not count, and the run be given up; or its steps would add up wrongly."""
    run, calm = tmp_path / "run", undisturbed
    if LONG:
        (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe))
        recipe = load_recipe(str(tmp_path / "recipe.yaml"), [f"schedule.steps={5 * KILLS + 5}"])
        calm = tmp_path / "calm"
        assert ended(submit.submit(recipe, calm, cluster, 2)) == "COMPLETED", said(calm)
    job = submit.submit(recipe, run, cluster, 2)
    for number in range(KILLS):
        next_attempt(run, job, number)
        wait(lambda number=number: saved_steps(run) >= 5 * (number + 1))  # type: ignore[misc]
        kill_rank(run, job, random.Random(number))
        wait(lambda number=number: read_attempts(run / JOB)[number].ended)  # type: ignore[misc]
    assert ended(job) == "COMPLETED", said(run)
    assert [a.cause for a in read_attempts(run / JOB)] == ["killed"] * KILLS + ["done"], said(run)
    assert_same(run, calm)


@pytest.mark.parametrize("phase", ["start", pytest.param("save", marks=ONLY_LONG)])
def test_a_warning_in_any_phase(
    undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path, phase: str
) -> None:
    """F7: a preemption while ranks import, or write a checkpoint, would count as a fault or cut the checkpoint.

    In the tenth of a second before the interpreter listens it does count as one fault, of three in a row.
    """
    run = tmp_path / "run"
    job = submit.submit(recipe, run, cluster, 2)
    folder = run / JOB
    if phase == "start":
        wait(
            lambda: (
                len([pid for pid in processes_of(run, "pineco.launch.job.rank") if catches(pid, signal.SIGUSR2)]) == 2
            )
        )
    else:
        wait(lambda: any(beat.phase == phase for beat in read_beats(folder).values()))
    signal_tasks(job, "USR2")
    assert ended(job) == "COMPLETED", said(run)
    assert [a.cause for a in read_attempts(folder)] == ["saved", "done"], said(run)
    assert_same(run, undisturbed)


@pytest.mark.parametrize("damage", [pytest.param("gone", marks=ONLY_LONG), "cut"])
def test_submitit_files_that_are_damaged(
    undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path, damage: str
) -> None:
    """F10: a requeued job would hang, or come back for ever; make resume must mend it."""
    run = tmp_path / "run"

    def damage_and_kill(job: str) -> None:
        (pickled,) = (run / JOB / "submitit").glob("*_submitted.pkl")
        if damage == "gone":
            pickled.unlink()
        else:
            pickled.write_bytes(pickled.read_bytes()[:20])
        (run / "checkpoints" / ".step_00000099.save_tmp").mkdir()  # as an interrupted write leaves behind
        kill_rank(run, job, random.Random(0))

    state, attempts = disturbed(recipe, cluster, run, damage_and_kill)
    assert (state, [a.cause for a in attempts]) == ("FAILED", ["killed"]), said(run)
    assert ".pkl" in said(run) or "pickle" in said(run)
    assert ended(submit.submit(recipe, run, cluster, 2)) == "COMPLETED", said(run)
    assert_same(run, undisturbed)


def test_a_full_folder_is_said(cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """F10: a job that cannot write its own files would start again and again, or end without a word."""
    run, full = tmp_path / "run", tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], check=True)
    try:
        with submitting(run):
            submit.write_job(recipe, run, cluster, 2)
        shutil.rmtree(run / JOB / "beats", ignore_errors=True)
        (full / "rest").write_bytes(b"x" * 64 * 1024)
        (run / JOB / "attempts.jsonl").symlink_to(full / "attempts.jsonl")
        job = submit.submit_script(run, cluster, 2, recipe.name, ["pineco.launch.job.supervise", str(run)])
        (run / JOB / ID).write_text(job)
        assert ended(job) == "FAILED"
        assert "No space left on device" in said(run)
        assert "make resume" in said(run)
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_a_port_that_is_taken(
    undisturbed: Path, cluster: Cluster, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: another program that takes the port between the look and its use would cost a place in the queue."""
    copy = submit.copy_code
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()

        def copy_that_finds_it_taken(folder: Path) -> None:
            """The first look of the batch script returns this port, as if it had been free a moment ago."""
            copy(folder)
            path = folder / "pineco" / "launch" / "job" / "supervise.py"
            mark = '        "MASTER_PORT": str(_free_port()),'
            text = path.read_text()
            assert mark in text
            first = "len(read_attempts(run / JOB)) == 1"
            taken = f'        "MASTER_PORT": str({other.getsockname()[1]} if {first} else _free_port()),'
            path.write_text(text.replace(mark, taken))

        monkeypatch.setattr(submit, "copy_code", copy_that_finds_it_taken)
        run = tmp_path / "run"
        assert ended(submit.submit(recipe, run, cluster, 2)) == "COMPLETED", said(run)
    attempts = read_attempts(run / JOB)
    assert [a.cause for a in attempts] == ["port", "done"], said(run)
    assert attempts[0].job == attempts[1].job
    assert_same(run, undisturbed)


@ONLY_LONG
def test_a_host_that_does_not_resolve(cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    """F16: a name server that fails would hold every node until the time limit."""
    run = tmp_path / "run"
    lost = replace(cluster, environment={**cluster.environment, "MASTER_ADDR": "nowhere.invalid"})
    impatient = replace(lost, limits=replace(cluster.limits, start=25))
    assert ended(submit.submit(recipe, run, impatient, 2)) == "FAILED"
    attempts = read_attempts(run / JOB)
    assert len(attempts) == WITHOUT_PROGRESS, said(run)
    assert not any(a.crash for a in attempts), "a fault of the place would count as a bug of the run"
    assert f"given up: {WITHOUT_PROGRESS} attempts in a row" in said(run)
