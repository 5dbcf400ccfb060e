"""The same work for every shard, in this process or over several; nobody outlives the process that asked."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import TypeVar

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.processes import processes
from pineco.data_pipeline.stores.store import Store, open_store

WORTH = 256 << 20  # bytes: what one process scans while another one starts
_POLL = 0.5  # seconds between two looks at how far the workers are

Result = TypeVar("Result")
Report = Callable[[int, int], None]  # (bytes, shards) done so far


@dataclass(frozen=True)
class Place:
    """Shards, and where their index lies."""

    shards: Store
    sidecars: Store


Work = Callable[[Place, str, Callable[[int], object]], Result]  # (place, shard, to be told of bytes that are done)


def open_place(root: str, out: str | None, *, create: bool = False) -> Place:
    """out: where the index lies apart; create: makes that folder where it is missing."""
    shards = open_store(root)
    return Place(shards, shards if out is None else open_store(out, create=create))


def for_each(
    work: Work[Result], place: Place, names: Sequence[str], *, workers: int | None, report: Report
) -> list[Result]:
    """What `work` returns for each shard, in any order; the first exception ends it.

    workers: processes, by default as many as are worth their start. `work` is a function of a module.
    """
    count = choose_workers(workers, place, names)
    if count > 1:
        return _in_processes(work, place, names, count, report)
    results: list[Result] = []
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        report(done, len(results))

    for name in names:
        results.append(work(place, name, advance))
    return results


def choose_workers(workers: int | None, place: Place, names: Sequence[str]) -> int:
    """How many processes; from S3 four a core, since those wait for the network most of the time."""
    if workers is not None:
        if workers < 1:
            raise InputError(f"workers must be at least 1, not {workers}")
        return min(workers, len(names))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(4 * cores, 32) if place.shards.root_name.startswith("s3://") else cores
    return min(most, len(names), sum(place.shards.size(name) for name in names) // WORTH)


def _in_processes(work: Work[Result], place: Place, names: Sequence[str], workers: int, report: Report) -> list[Result]:
    counter = multiprocessing.get_context("spawn").Value("q", 0)
    start = place.shards.root_name, place.sidecars.root_name, counter
    mend = "was it out of memory? Pass fewer --workers; what is done is kept"
    killed = f"{place.shards.root_name}: a worker process died; {mend}"
    results: list[Result] = []
    with processes(workers, _start, *start, killed=killed) as pool:
        waiting = {pool.submit(_run, work, name) for name in names}
        while waiting:
            done, waiting = wait(waiting, _POLL, FIRST_COMPLETED)
            results += [future.result() for future in done]
            report(counter.value, len(results))
    return results


_place: Place  # of a worker process
_advance: Callable[[int], None]


def _start(root: str, out: str, counter: Synchronized[int]) -> None:
    """Begins a worker process."""
    global _place, _advance

    def advance(size: int) -> None:
        with counter.get_lock():
            counter.value += size

    _place, _advance = open_place(root, None if out == root else out), advance


def _run(work: Work[Result], name: str) -> Result:
    return work(_place, name, _advance)
