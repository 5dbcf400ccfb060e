"""Which stage of a run goes on and how it fares: from its files and from what SLURM says of its job."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pineco.data_pipeline.errors import InputError
from pineco.launch.rundir.attempts import Attempt, decide, read_attempts
from pineco.launch.rundir.checkpoints import newest_step
from pineco.launch.rundir.heartbeat import read_beats
from pineco.launch.rundir.layout import INIT, JOB, LEASE, STOP, metrics
from pineco.launch.rundir.lease import SILENT, Holder, read_holder
from pineco.launch.rundir.spec import read_job
from pineco.launch.submit.squeue import Queue
from pineco.launch.submit.submit import ALIVE

_TAIL = 1 << 16  # bytes, far more than a row of metrics.jsonl


@dataclass(frozen=True)
class Stage:
    """The stage of a run that goes on, or comes next. Its files are read once, when they are asked for."""

    run: Path
    name: Literal["first", "main"]

    @property
    def folder(self) -> Path:
        return self.run / INIT if self.name == "first" else self.run

    @cached_property
    def owner(self) -> Path:
        """Whose job it is: a first stage has one of its own, or is trained in that of its run."""
        return self.folder if read_job(self.folder) is not None else self.run

    @cached_property
    def job(self) -> str | None:
        return read_job(self.owner)

    @cached_property
    def row(self) -> dict[str, Any]:
        """The newest of its metrics; empty before the first."""
        return _last_row(metrics(self.folder))

    @cached_property
    def attempts(self) -> list[Attempt]:
        return read_attempts(self.owner / JOB)

    @property
    def finished(self) -> bool:
        """Whether its last step is taken and saved."""
        return bool(self.row) and self.row["step"] == self.row.get("steps") == newest_step(self.folder)


@dataclass(frozen=True)
class State:
    """In a word; `waiting` also where nothing is known."""

    word: str
    job: str | None
    kind: Literal["running", "waiting", "ended"]

    def __str__(self) -> str:
        return self.word if self.job is None else f"{self.word} ({self.job})"


def present_stage(run: Path) -> Stage:
    """The first one until its last step is saved, or the second one has a row of its own."""
    first = Stage(run, "first")
    if not first.folder.is_dir() or metrics(run).is_file():
        return Stage(run, "main")
    return Stage(run, "main") if first.finished else first


def state_of(stage: Stage, queue: Queue, now: float) -> State:
    """now: seconds since the epoch."""
    try:
        holder = _holder(stage.run, now) or _holder(stage.folder, now)
    except InputError:
        return State(f"{LEASE} is damaged", stage.job, "waiting")
    if holder is not None and (place := _trains_without_slurm(holder)) is not None:
        return State(f"running {place}", None, "running")
    if stage.job is None:
        return State("done" if stage.finished else "not running", None, "ended")
    return _state_of_job(stage, stage.job, queue, holder)


def _state_of_job(stage: Stage, job: str, queue: Queue, holder: Holder | None) -> State:
    state = queue.states.get(job)
    if state == "RUNNING":
        return State("starting" if _starts(stage) else "running", job, "running")
    if state in ALIVE:
        return State(str(state).lower(), job, "waiting")
    if queue.silence and holder is not None:
        return State("running", job, "running")
    if (word := _how_it_ended(stage, job, state)) is not None:
        return State(word, job, "ended")
    if queue.silence:
        return State(queue.silence, job, "waiting")
    return State("gone" if state is None else state.lower(), job, "ended")


def _starts(stage: Stage) -> bool:
    """Whether rank 0 has not come to a step since the job began last."""
    beat = read_beats(stage.owner / JOB).get(0)
    return beat is None or beat.phase == "start"


def _how_it_ended(stage: Stage, job: str, state: str | None) -> str | None:
    """None where only SLURM's own word says it. An attempt of a job before this one says nothing."""
    last = stage.attempts[-1] if stage.attempts else None
    mine = last is not None and last.job == job and last.ended is not None
    cause = last.cause if last is not None and mine else None
    stop_asked = (stage.owner / JOB / STOP).exists()
    if stage.finished or cause == "done":
        return "done"
    if cause == "cancelled":  # its ranks saved first, so that SLURM may say COMPLETED
        return "cancelled"
    if mine and decide(stage.attempts, stop_asked=stop_asked).action == "give up":
        return "given up"
    if state == "COMPLETED" or (stop_asked and (mine or state is not None)):
        return "stopped"
    return None


def _holder(folder: Path, now: float) -> Holder | None:
    """Who writes a directory, if its lease is fresh; a process of this host that is gone does not."""
    holder, path = read_holder(folder), folder / LEASE
    if holder is None or now - path.stat().st_mtime > SILENT:
        return None
    return None if holder.owner.gone else holder


def _trains_without_slurm(holder: Holder) -> str | None:
    """Where the process of a lease is, if it is no job's."""
    if holder.owner.job is not None:
        return None
    return "here" if holder.owner.on_this_host else f"on {holder.owner.host}"


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole row; the one being written may be cut."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            row: dict[str, Any] = json.loads(line)
            return row
        except ValueError:
            continue
    return {}
