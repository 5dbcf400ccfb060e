"""pineco logs RUN: what a run says while it says it, until the run ends or Ctrl-C.

Of a run on a cluster: the log of its supervisor and that of rank 0; of a run on this machine: run.log. Of two stages
that which goes on, and then the next one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pineco.data_pipeline.files import user_path
from pineco.launch.rundir.layout import JOB, LOG, LOGS, SUBMITIT, rank_name
from pineco.launch.status.command import check_run_exists
from pineco.launch.status.state import Stage, State, present_stage, state_of
from pineco.launch.submit.squeue import ask_queue

_EVERY = 0.5  # seconds between two looks at the files
_LOOKS = 10  # at the files, for one question to SLURM
_BEFORE, _BYTES = 100, 1 << 18  # lines that are shown of what was said before, and how far back they are looked for


class Follower:
    """What is new in files that come later, are cut, or are replaced."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[int, int]] = {}  # inode and bytes
        self._began = False

    def look(self, paths: Iterable[Path], *, last: bool = False) -> list[tuple[Path, str]]:
        """Whole lines since the last look, by file; the first look shows only the end of what is there.

        last: nothing more is written, so that a line without an end counts as whole.
        """
        found = [(path, self._new(path, last)) for path in paths if path.is_file()]
        self._began = True
        return [(path, text) for path, text in found if text]

    def _new(self, path: Path, last: bool) -> str:
        with path.open("rb") as file:
            inode, size = path.stat().st_ino, path.stat().st_size
            known, place = self._read.get(path, (inode, 0))
            first = path not in self._read and not self._began
            if known != inode or size < place:
                place = 0
            if first:
                place = max(0, size - _BYTES)
            file.seek(place)
            new = file.read()
        whole = new[: len(new) if last else new.rfind(b"\n") + 1]
        self._read[path] = (inode, place + len(whole))
        text = whole.decode(errors="replace")
        text += "\n" * (last and bool(text) and not text.endswith("\n"))
        return "".join(text.splitlines(keepends=True)[-_BEFORE:]) if first else text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="pineco logs", description="Follow the log of a run until it ends or Ctrl-C, which leaves the run alone."
    )
    parser.add_argument("run", type=user_path, help="run directory")
    options = parser.parse_args(arguments)
    try:
        check_run_exists(options.run)
        follow(options.run, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        return 0
    return 0


def follow(run: Path, say: Callable[[str], None], pause: Callable[[float], None] = time.sleep) -> None:
    """Until the run has ended. say: takes whole lines."""
    follower, spoken, told = Follower(), _Spoken(say), ""
    before: str | None = None
    paths: dict[Path, None] = {}  # a set that keeps its order
    while True:
        stage = present_stage(run)
        state = state_of(stage, ask_queue([stage.job] if stage.job else []), time.time())
        paths |= dict.fromkeys(log_files(stage, state))
        spoken.lines(follower.look(paths, last=state.kind == "ended"))
        if (news := describe(stage, state)) != told:
            say(f"pineco: {news}\n")
            told = news
        if state.kind == "ended" and before in (None, "ended"):  # twice: a job may be on its way back into the queue
            return
        before = state.kind
        for _ in range(_LOOKS):
            pause(_EVERY)
            spoken.lines(follower.look(paths))


class _Spoken:
    """Lines of several files, each after the name of its file where that changes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, Path()

    def lines(self, found: Sequence[tuple[Path, str]]) -> None:
        for path, text in found:
            if path != self._last:
                self._say(f"==> {path} <==\n")
            self._last = path
            self._say(text)


def log_files(stage: Stage, state: State) -> list[Path]:
    """Of the supervisor and of rank 0, whether they are there yet or not."""
    if stage.job is None or state.job is None:
        return [stage.folder / LOG]
    name = f"{stage.job}_0_log.out"  # submitit's name; that of a sweep lies beside its runs
    supervisor = [stage.owner / JOB / SUBMITIT / name, stage.owner.parent / JOB / name]
    return [*supervisor, stage.owner / JOB / LOGS / f"{rank_name(0)}.log"]


def describe(stage: Stage, state: State) -> str:
    """One line."""
    where = f"{stage.run}, first stage" if stage.name == "first" else str(stage.run)
    return f"{where}: queued (job {state.job}), waiting" if state.word == "pending" else f"{where}: {state}"
