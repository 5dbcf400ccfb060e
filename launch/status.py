"""python -m launch.status [RUN ...] [--root runs] [--watch]: every run, from its directory and from SLURM."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from data_pipeline.errors import InputError
from launch import slurm
from launch.attempts import read_attempts
from launch.checkpoints import INIT, newest_step
from launch.goodput import account, read_phases
from launch.spec import JOB, read_job

_EVERY = 2.0  # seconds between two looks of --watch
_WIDTH = 240  # characters, where the output is no terminal
_COLUMNS = ("run", "state", "stage", "step", "samples/s", "ETA", "loss", "evaluated", "saved", "starts", "goodput")


@dataclass(frozen=True)
class Status:
    """One run. None: not known, or nothing yet."""

    run: Path
    state: str
    stage: str
    step: int
    steps: int | None
    samples_per_second: float | None
    eta: float | None  # seconds
    loss: float | None
    evaluated: str
    saved: int  # step of the newest checkpoint
    starts: int
    goodput: float | None  # share of the wall time, 0 to 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.status", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run directories (default: all below --root)")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--watch", action="store_true", help="look again every two seconds, until Ctrl-C")
    options = parser.parse_args(arguments)
    try:
        runs = options.runs or find_runs(options.root)
        if not runs:
            raise InputError(f"{options.root}: no runs here; start one with make pretrain")
        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        if not options.watch:
            console.print(table([look(run) for run in runs]))
            return 0
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(table([look(run) for run in options.runs or find_runs(options.root)]), refresh=True)
                time.sleep(_EVERY)
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def find_runs(root: Path) -> list[Path]:
    """Directories that hold a run or a job, at any depth."""
    found = {path.parent for path in root.rglob("recipe.yaml") if path.parent.name not in (JOB, INIT)}
    found |= {path.parent.parent for path in root.rglob(f"{JOB}/spec.json")}
    return sorted(run for run in found if run.name != INIT)


def look(run: Path, now: float | None = None) -> Status:
    """What the files of a run and SLURM say; a first stage that still goes on is what is shown."""
    now = time.time() if now is None else now
    stage = run if (run / "metrics.jsonl").is_file() else run / INIT
    row = _last_row(stage / "metrics.jsonl")
    attempts = read_attempts(run / JOB)
    phases = read_phases(run / JOB)
    accounted = account(attempts, phases, now) if attempts and phases else None
    steps, speed = row.get("steps"), row.get("samples_per_second")
    eta = None
    if steps and speed and row["step"]:
        eta = (steps - row["step"]) * row["samples_seen"] / row["step"] / speed
    return Status(
        run=run,
        state=_state(run, row),
        stage="first" if stage != run else "",
        step=int(row.get("step", 0)),
        steps=steps,
        samples_per_second=speed,
        eta=eta,
        loss=row.get("loss"),
        evaluated=_evaluated(run),
        saved=newest_step(stage),
        starts=len(attempts),
        goodput=accounted.share if accounted else None,
    )


def table(statuses: Sequence[Status]) -> Table:
    shown = Table(box=None, header_style="bold")
    for name in _COLUMNS:
        shown.add_column(name, no_wrap=True)
    for s in statuses:
        shown.add_row(
            _near(s.run), s.state, s.stage, f"{s.step}/{s.steps}" if s.steps else str(s.step),
            _number(s.samples_per_second, ".0f"), _duration(s.eta), _number(s.loss, ".4f"), s.evaluated, str(s.saved),
            str(s.starts or ""), _number(s.goodput and 100 * s.goodput, ".0f", " %"),
        )  # fmt: skip
    return shown


def _near(run: Path) -> str:
    """The path from here, where it lies below."""
    here = Path.cwd()
    return str(run.relative_to(here) if run.is_relative_to(here) else run)


def _state(run: Path, row: dict[str, Any]) -> str:
    job = read_job(run)
    if job is not None and shutil.which("squeue"):
        try:
            state = slurm.job_state(job)
        except InputError:
            return f"SLURM is silent ({job})"
        if state is not None:
            return f"{state.lower()} ({job})"
    if row and row["step"] == row.get("steps") and (run / "metrics.jsonl").is_file():
        return "done"
    return "not running" if job is None else f"gone ({job})"


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole row; the one being written may be cut."""
    for line in reversed(path.read_text().splitlines() if path.is_file() else []):
        try:
            row: dict[str, Any] = json.loads(line)
            return row
        except ValueError:
            continue
    return {}


def _evaluated(run: Path) -> str:
    steps = [int(path.stem.removeprefix("step_")) for path in (run / "reports").glob("step_*.json")]
    return f"step {max(steps)}" if steps else ""


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


if __name__ == "__main__":
    sys.exit(main())
