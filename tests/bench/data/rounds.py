"""Contestants in turn: on a machine that others use too, only what ran at nearly the same time can be compared."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

Pipeline = Callable[[], Generator[int, None, None]]  # endless: the samples of each batch; closing it ends its threads


@dataclass(frozen=True)
class Turn:
    """One stretch of one contestant."""

    samples: int
    wall: float  # seconds
    cpu: float  # seconds of all threads and worker processes

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.wall

    @property
    def cpu_rate(self) -> float:
        """Samples a second of computing: what `rate` is on a core that nobody else uses."""
        return self.samples / self.cpu


def take_turns(
    pipelines: Mapping[str, Pipeline], *, rounds: int, seconds: float, warm: int = 0
) -> dict[str, list[Turn]]:
    """A turn of each a round, the order reversed every other round; a round before the first is thrown away.

    seconds: of a turn. warm: samples that a turn takes before its clock starts, so that buffers are full.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in pipelines}
    for number in range(rounds + 1):
        for name in list(pipelines)[:: -1 if number % 2 else 1]:
            turn = take_turn(pipelines[name], seconds=seconds if number else min(seconds, 0.2), warm=warm)
            if number:
                turns[name].append(turn)
    return turns


def take_turn(pipeline: Pipeline, *, seconds: float, warm: int = 0) -> Turn:
    """Starts a pipeline, lets it work, and ends it, so that nothing of it runs in the turn of the next one."""
    with closing(pipeline()) as batches:
        seen = 0
        while seen < warm:
            seen += next(batches)
        wall, cpu, samples = time.perf_counter(), _cpu_seconds(), 0
        while not samples or time.perf_counter() - wall < seconds:
            samples += next(batches)
        return Turn(samples, time.perf_counter() - wall, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """Of all threads of this process, and of the worker processes that it has now."""
    children = [child.pid for child in multiprocessing.active_children()]
    return time.process_time() + sum(_process_seconds(pid) for pid in children if pid is not None)


def _process_seconds(pid: int) -> float:
    """User and system time that Linux keeps, to some 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def on_cores(*cores: int) -> Iterator[None]:
    """This thread, and those that it starts, on these cores; torch computes in the thread that asks."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, before)


def cores() -> list[int]:
    """The cores that this process may use, in order."""
    return sorted(os.sched_getaffinity(0))
