"""One run in figures: what its files say and how its job fares."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pineco.launch.rundir.checkpoints import newest_step
from pineco.launch.rundir.goodput import account, read_phases
from pineco.launch.rundir.layout import EVALUATIONS, JOB, REPORTS, by_step, report_of
from pineco.launch.status.state import Stage, State, present_stage, state_of
from pineco.launch.submit.squeue import Queue, ask_queue
from pineco.launch.submit.submit import ALIVE


@dataclass(frozen=True)
class Status:
    """The stage of a run that goes on. None: not known, or nothing yet."""

    run: Path
    state: State
    stage: str  # first or main
    step: int
    steps: int | None
    samples_per_second: float | None
    eta: float | None  # seconds
    loss: float | None
    evaluated: str
    saved: int  # step of the newest checkpoint
    starts: int
    goodput: float | None  # share of the wall time, 0 to 1


def look(runs: Sequence[Path], now: float | None = None) -> list[Status]:
    """All of them, with one question to SLURM. now: seconds since the epoch."""
    stages = [present_stage(run) for run in runs]
    jobs = [stage.job for stage in stages if stage.job is not None]
    queue = ask_queue([*jobs, *(job for stage in stages for job in _evaluations(stage))])
    return [_describe(stage, queue, time.time() if now is None else now) for stage in stages]


def _describe(stage: Stage, queue: Queue, now: float) -> Status:
    row, state = stage.row, state_of(stage, queue, now)
    steps_are_taken = state.kind == "running" and state.word != "starting"
    return Status(
        run=stage.run,
        state=state,
        stage=stage.name,
        step=int(row.get("step", 0)),
        steps=row.get("steps"),
        samples_per_second=row.get("samples_per_second") if steps_are_taken else None,
        eta=_seconds_left(stage) if steps_are_taken else None,
        loss=row.get("loss"),
        evaluated=_evaluated(stage, queue),
        saved=newest_step(stage.folder),
        starts=len(stage.attempts),
        goodput=_goodput(stage, state, now),
    )


def _seconds_left(stage: Stage) -> float | None:
    row = stage.row
    if not (row.get("steps") and row.get("samples_per_second") and row["step"]):
        return None
    return float((row["steps"] - row["step"]) * row["samples_seen"] / row["step"] / row["samples_per_second"])


def _goodput(stage: Stage, state: State, now: float) -> float | None:
    """Of a run that nobody could write the end of, up to its last sign of life: it would sink for ever."""
    phases = read_phases(stage.owner / JOB)
    if not stage.attempts or not phases:
        return None
    return account(stage.attempts, phases, now if state.kind == "running" else phases[-1].time).share


def _evaluated(stage: Stage, queue: Queue) -> str:
    """The newest report, and what SLURM still has of the others."""
    steps = by_step(stage.folder / REPORTS)
    states = [queue.states.get(job) for job in _evaluations(stage)]
    counts = {
        "running": states.count("RUNNING"),
        "queued": sum(state in ALIVE and state != "RUNNING" for state in states),
    }
    parts = [f"step {max(steps)}"] if steps else []
    return ", ".join(parts + [f"{number} {word}" for word, number in counts.items() if number])


def _evaluations(stage: Stage) -> list[str]:
    """Jobs that were submitted for checkpoints that have no report yet (see pineco.launch.evaluate.job)."""
    found: list[str] = []
    for note in by_step(stage.folder / JOB / EVALUATIONS).values():
        if not report_of(stage.folder, note.stem).is_file():
            found += json.loads(note.read_text())["jobs"]
    return found
