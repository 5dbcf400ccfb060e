"""make status: what the files of a run say, with and without a SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch import slurm, status
from launch.attempts import Attempt, write_attempt
from launch.spec import JOB


def make_run(run: Path, *, step: int, steps: int = 40) -> Path:
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: x\n")
    row = {"step": step, "steps": steps, "samples_seen": 16 * step, "loss": 1.5, "samples_per_second": 32.0}
    (run / "metrics.jsonl").write_text(json.dumps({**row, "step": 1}) + "\n" + json.dumps(row) + "\n" + '{"step": 9')
    (run / "checkpoints" / "step_00000010").mkdir(parents=True)
    (run / "checkpoints" / "step_00000010" / "manifest.json").touch()
    return run


def test_a_run_of_this_machine(tmp_path: Path) -> None:
    """A row that is being written would hide the run, or its figures would be those of its first row."""
    found = status.look(make_run(tmp_path / "a", step=20))
    assert (found.step, found.steps, found.loss, found.saved) == (20, 40, 1.5, 10)
    assert found.eta == pytest.approx(20 * 16 / 32)
    assert found.state == "not running"
    assert status.look(make_run(tmp_path / "b", step=40)).state == "done"


def test_a_run_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table would say nothing of restarts, or stop at the first job that SLURM has forgotten."""
    run = make_run(tmp_path / "a", step=20)
    (run / JOB).mkdir()
    (run / JOB / "id").write_text("12\n")
    write_attempt(run / JOB, Attempt(1, "12", 0.0, 0, 50.0, 10, "killed"))
    write_attempt(run / JOB, Attempt(2, "12", 60.0, 10))
    monkeypatch.setattr(status.shutil, "which", lambda name: name)
    for state, shown in (("RUNNING", "running (12)"), (None, "gone (12)")):
        monkeypatch.setattr(slurm, "job_state", lambda job, state=state: state)
        found = status.look(run, now=100.0)
        assert (found.state, found.starts, found.goodput) == (shown, 2, None)

    def silent(job: str) -> str:
        raise slurm.InputError("squeue: no controller")

    monkeypatch.setattr(slurm, "job_state", silent)
    assert status.look(run, now=100.0).state == "SLURM is silent (12)"


def test_the_first_stage_is_shown_while_it_goes_on(tmp_path: Path) -> None:
    """A run would seem to do nothing for its first hour."""
    make_run(tmp_path / "a" / "init", step=5)
    (tmp_path / "a" / JOB).mkdir()
    (tmp_path / "a" / JOB / "spec.json").touch()
    assert status.find_runs(tmp_path) == [tmp_path / "a"]
    found = status.look(tmp_path / "a")
    assert (found.stage, found.step, found.saved) == ("first", 5, 10)


def test_no_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt folder would show an empty table."""
    assert status.main(["--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"pineco: {tmp_path}: no runs here; start one with make pretrain\n"
