"""python -m pineco.launch.job.rank RUN: one rank of a run on a cluster, as srun starts it for `supervise`.

Leaves through os._exit where it failed: a normal exit would wait for collectives that never come, and hold the others.
Each rank writes down how it left: srun's own exit code is the largest of all, and says nothing of who was first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from pineco.data_pipeline.errors import InputError
from pineco.launch.exits import exit_code
from pineco.launch.rundir.heartbeat import RANK_FILE, read_beats
from pineco.launch.rundir.spec import JOB, RECIPE
from pineco.launch.train.interrupt import ASKING, listen_early

PORT_TAKEN = 76  # exit code: another program listens where rank 0 wanted to
CRASHES, LEFT = "crashes", "left"  # folders of job/
ATTEMPT = "PINECO_ATTEMPT"  # in the environment: which attempt of which job started this rank


def main(run: Path) -> int:
    os.environ.update(rank_environment(os.environ))
    rank = int(os.environ["RANK"])
    listen_early()  # SLURM may warn while this still imports
    try:
        from pineco.launch.train import run as local  # after listening: its imports take seconds

        code = exit_code(lambda: local.main([str(run / JOB / RECIPE), "--run-dir", str(run), "--resume", "--job"]))
    except Exception as error:
        traceback.print_exc()
        if "EADDRINUSE" in str(error):
            code = PORT_TAKEN
        else:
            code = 1
            if not lost_others(error):
                _write_crash(run / JOB, rank, error)
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)  # nothing more to save
    return code


def rank_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch's `env://` reads, from what srun sets for a task."""
    try:
        return {
            "RANK": slurm["SLURM_PROCID"],
            "WORLD_SIZE": slurm["SLURM_NTASKS"],
            "LOCAL_RANK": slurm["SLURM_LOCALID"],
        }
    except KeyError as error:
        raise InputError(
            f"pineco.launch.job.rank: {error.args[0]} is not set: srun starts it, from pineco.launch.job.supervise"
        ) from None


def lost_others(error: Exception) -> bool:
    """Whether this rank only says that another one is gone: gloo's and NCCL's errors of a connection."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = str(error)
    return bool(kinds & {"DistBackendError", "DistNetworkError"}) or "/gloo/transport/" in said or "by peer" in said


def _write_crash(folder: Path, rank: int, error: Exception) -> None:
    """Where and why, so that the same error at the same step is known again."""
    beat = read_beats(folder).get(rank)
    frames = traceback.extract_tb(error.__traceback__)
    place = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    record = {
        "rank": rank,
        "attempt": os.environ[ATTEMPT],
        "time": time.time(),
        "step": beat.step if beat else None,
        "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300],
        "trace": place,
    }
    path = folder / CRASHES / f"{RANK_FILE.format(rank)}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))


def read_left(folder: Path, attempt: str) -> dict[int, int]:
    """Exit codes by rank, of those of one attempt that left by themselves. folder: job/ of a run.

    Not of another job or an earlier attempt, whose ranks may still be there on a node that was cut off.
    """
    found = {path: path.read_text().split() for path in (folder / LEFT).glob("rank_*")}
    mine = {path: int(words[0]) for path, words in found.items() if words[1:] == [attempt]}
    return {int(path.name.removeprefix("rank_")): code for path, code in mine.items()}


def _leave(folder: Path, code: int) -> NoReturn:
    try:
        (folder / LEFT).mkdir(exist_ok=True)
        (folder / LEFT / RANK_FILE.format(int(os.environ["RANK"]))).write_text(f"{code} {os.environ[ATTEMPT]}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    _leave(directory / JOB, exit_code(lambda: main(directory)))
