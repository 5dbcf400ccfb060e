"""Run directories as runs leave them."""

from __future__ import annotations

import json
from pathlib import Path

from pineco.launch.rundir.attempts import Attempt, Cause, write_attempt
from pineco.launch.rundir.heartbeat import Beat
from pineco.launch.rundir.layout import JOB


def make_run(run: Path, *, step: int, steps: int = 40, saved: int | None = None) -> Path:
    """A run whose newest checkpoint is of `saved`, or else of its last row; its last row is being written."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text("name: x\n")
    row = {"step": step, "steps": steps, "samples_seen": 16 * step, "loss": 1.5, "samples_per_second": 32.0}
    (run / "metrics.jsonl").write_text(json.dumps({**row, "step": 1}) + "\n" + json.dumps(row) + "\n" + '{"step": 9')
    checkpoint = run / "checkpoints" / f"step_{step if saved is None else saved:08}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    return run


def make_job(run: Path, job: str, cause: Cause | None = None) -> Path:
    """A run that was submitted; cause: how its only attempt ended, None before."""
    (run / JOB).mkdir(parents=True, exist_ok=True)
    (run / JOB / "spec.json").touch()
    (run / JOB / "id").write_text(f"{job}\n")
    ended = None if cause is None else 50.0
    write_attempt(run / JOB, Attempt(1, job, 0.0, 0, ended, cause=cause or "lost"))
    return run


def beats(run: Path, phase: str) -> None:
    """What rank 0 does."""
    (run / JOB / "beats").mkdir(exist_ok=True)
    (run / JOB / "beats" / "rank_00000.json").write_text(json.dumps(vars(Beat(phase, 3, 90.0, 1))))  # type: ignore[arg-type]
