"""What SLURM says of many jobs, asked once."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pineco.data_pipeline.errors import InputError
from pineco.launch.submit import slurm


@dataclass(frozen=True)
class Queue:
    """States by the number of the job; a job that SLURM has forgotten is not among them."""

    states: Mapping[str, str] = field(default_factory=dict)
    silence: str | None = None  # why nothing is known of any job


def ask_queue(jobs: Collection[str]) -> Queue:
    """One call for all jobs, tasks of arrays (ARRAY_TASK) among them: a controller may be busy."""
    if not jobs:
        return Queue()
    if shutil.which("squeue") is None:
        return Queue(silence="no SLURM here")
    numbers = ",".join(sorted(set(jobs)))
    try:
        said = slurm.ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={numbers}", "--format=%i|%T")
    except InputError as error:
        return Queue() if "Invalid job id" in str(error) else Queue(silence="SLURM is silent")
    return Queue(dict(line.strip().split("|") for line in said.splitlines() if "|" in line))
