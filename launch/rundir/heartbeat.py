"""What every rank is doing, written where the watchdog sees it: `RUN/job/beats/rank_00000.json`.

Rank 0 also keeps when each phase began, `RUN/job/phases.jsonl`: what goodput.py adds up.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pineco.data_pipeline.files import write_text_atomically
from pineco.launch.rundir.layout import BEATS, PHASES, STACKS, rank_files, rank_name

if TYPE_CHECKING:  # the watchdog, which reads beats, needs no torch
    from pineco.pretrain.objectives.base import StepOutput
    from pineco.pretrain.trainer import TrainState

Phase = Literal["start", "step", "save", "evaluate", "end"]
_EVERY = 1.0  # seconds between two signs of life


@dataclass(frozen=True)
class Beat:
    phase: Phase
    step: int  # that was taken last
    time: float  # seconds since the epoch
    pid: int
    waited: float = 0.0  # seconds that this rank's steps have waited for data since it started


class Heartbeat:
    """One rank's, as a hook after every step. Where `folder` is None nothing is written.

    A thread writes the beat every second, so that a rank that waits for others still shows life, and one that is
    stopped, or holds the interpreter's lock, does not.
    """

    def __init__(self, folder: Path | None, rank: int) -> None:
        """folder: job/ of a run."""
        self._folder, self._name, self._leads = folder, rank_name(rank), rank == 0
        self._phase: Phase = "start"
        self._waited: Callable[[], float] = lambda: 0.0
        self._step, self._lock, self._ended = 0, threading.Lock(), threading.Event()
        if folder is not None:
            for name in (BEATS, STACKS):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._stacks = (folder / STACKS / f"{self._name}.txt").open("a")  # those of earlier attempts stay
            faulthandler.register(signal.SIGQUIT, file=self._stacks, all_threads=True)
            self._note_phase()
            threading.Thread(target=self._go_on, name="heartbeat", daemon=True).start()

    def __call__(self, state: TrainState, output: StepOutput) -> None:
        self.beat("step", state.step)

    def watch(self, waited: Callable[[], float]) -> None:
        """waited: seconds that the steps of a stage have waited for data so far; adds to those of stages before."""
        before = self._waited()
        self._waited = lambda: before + waited()

    def beat(self, phase: Phase, step: int | None = None) -> None:
        """Says what begins now; step: that was taken last."""
        begins = phase != self._phase
        self._phase, self._step = phase, self._step if step is None else step
        if begins and self._folder is not None:
            self._note_phase()

    def write(self) -> None:
        """Now, and not within the second."""
        if self._folder is not None:
            path = self._folder / BEATS / f"{self._name}.json"
            with self._lock:
                write_text_atomically(path, self._row())

    def end(self) -> None:
        self._ended.set()
        self.write()

    def _go_on(self) -> None:
        while not self._ended.is_set():
            self.write()
            self._ended.wait(_EVERY)

    def _note_phase(self) -> None:
        if self._leads and self._folder is not None:
            with (self._folder / PHASES).open("a") as file:
                file.write(self._row() + "\n")
        self.write()

    def _row(self) -> str:
        return json.dumps(asdict(Beat(self._phase, self._step, time.time(), os.getpid(), self._waited())))


def read_beats(folder: Path) -> dict[int, Beat]:
    """The newest beat of every rank that has one."""
    found = {}
    for rank, path in rank_files(folder / BEATS, ".json"):
        try:
            found[rank] = Beat(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # being replaced, or cut by a full disk: the next look sees it
    return found
