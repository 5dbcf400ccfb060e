"""pineco status [RUN ...] [--root runs] [--watch]: every run, from its directory and from SLURM."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.live import Live

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path
from pineco.launch.rundir.layout import FOLDERS, JOB, RECIPE, SPEC
from pineco.launch.status.figures import look
from pineco.launch.status.table import table

_EVERY = 2.0  # seconds between two looks of --watch
_WIDE = 10_000  # characters, where the output is no terminal: whoever reads it wants every column


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="pineco status",
        description="List runs with state, step, loss and time left, from their directories and from SLURM.",
    )
    parser.add_argument("runs", nargs="*", type=user_path, help="run directories (default: all below --root)")
    parser.add_argument(
        "--root", type=user_path, default=Path("runs"), help="folder whose runs are listed (%(default)s)"
    )
    parser.add_argument("--watch", action="store_true", help="look again every two seconds, until Ctrl-C")
    options = parser.parse_args(arguments)
    try:
        runs = choose(options.runs, options.root)
        terminal = sys.stdout.isatty()
        console = Console(width=None if terminal else _WIDE)
        if options.watch:
            _watch(options.runs, options.root, console)
        else:
            console.print(table(look(runs), console.width if terminal else None))
    except KeyboardInterrupt:
        return 0
    return 0


def choose(named: Sequence[Path], root: Path) -> list[Path]:
    """The runs that were named, or all below a folder; InputError where there is none."""
    for run in named:
        check_run_exists(run)
    runs = list(named) or find_runs(root)
    if not runs:
        raise InputError(f"{root}: no runs here; start one with make pretrain")
    return runs


def check_run_exists(run: Path) -> None:
    if not is_run(run):
        raise InputError(f"{run}: no such run; make status lists those below runs/")


def is_run(folder: Path) -> bool:
    """Whether it holds a run, or a job that will make it one."""
    return (folder / RECIPE).is_file() or (folder / JOB / SPEC).is_file()


def find_runs(root: Path) -> list[Path]:
    """Directories that hold a run or a job, at any depth."""
    found = []
    for path, folders, _ in os.walk(root):
        if is_run(Path(path)):
            found.append(Path(path))
            folders[:] = [name for name in folders if name not in FOLDERS]
    return sorted(found)


def _watch(named: Sequence[Path], root: Path, console: Console) -> NoReturn:
    """Until Ctrl-C. The size is asked for every time: a window may be drawn larger."""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            statuses = look(list(named) or find_runs(root))
            live.update(table(statuses, console.width, console.height - 1), refresh=True)
            time.sleep(_EVERY)
