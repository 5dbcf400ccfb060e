"""python -m launch.job RUN: one rank of a run on a cluster, as srun starts it under launch.supervise.

Leaves through os._exit where it failed: a normal exit would wait for collectives that never come, and hold the others.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from data_pipeline.errors import InputError
from launch import run as local
from launch.heartbeat import RANK_FILE, read_beats
from launch.spec import JOB, RECIPE

PORT_TAKEN = 76  # exit code: another program listens where rank 0 wanted to
CRASHES = "crashes"  # folder of job/


def main(run: Path) -> int:
    os.environ.update(rank_environment(os.environ))
    rank = int(os.environ["RANK"])
    try:
        return local.main([str(run / JOB / RECIPE), "--run-dir", str(run), "--resume", "--job"])
    except Exception as error:
        traceback.print_exc()
        if "EADDRINUSE" in str(error):
            return _leave(PORT_TAKEN)
        if not lost_others(error):
            _write_crash(run / JOB, rank, error)
        return _leave(1)


def rank_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch's `env://` reads, from what srun sets for a task."""
    try:
        return {
            "RANK": slurm["SLURM_PROCID"],
            "WORLD_SIZE": slurm["SLURM_NTASKS"],
            "LOCAL_RANK": slurm["SLURM_LOCALID"],
        }
    except KeyError as error:
        raise InputError(f"launch.job: {error.args[0]} is not set: srun starts it, from launch.supervise") from None


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
        "time": time.time(),
        "step": beat.step if beat else None,
        "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300],
        "trace": place,
    }
    path = folder / CRASHES / f"{RANK_FILE.format(rank)}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))


def _leave(code: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        code = main(Path(sys.argv[1]))
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        code = local.BAD_INPUT
    _leave(code)
