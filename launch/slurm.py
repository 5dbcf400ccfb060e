"""SLURM's commands, as far as they are used: words and exit codes, never a shell."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from data_pipeline.errors import InputError
from launch.cluster import Cluster

_SECONDS = 60  # that a command of a busy controller may take


@dataclass(frozen=True)
class Partition:
    name: str
    nodes: int
    minutes: int | None  # longest job, None where there is no limit
    default: bool


def need_slurm() -> None:
    """InputError where there is no SLURM."""
    if shutil.which("sbatch") is None:
        raise InputError("no SLURM here (no sbatch on the PATH): log in to the cluster, or run here with NODES=0")


def ask(*command: str) -> str:
    """What a command prints; InputError with its last line where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603 - words
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{command[0]}: {error}; is the controller reachable?") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{command[0]}: {said.removeprefix(command[0] + ': ')}")
    return done.stdout


def partitions() -> dict[str, Partition]:
    """By name, with the nodes that are in each."""
    found: dict[str, Partition] = {}
    for line in ask("sinfo", "--noheader", "--format=%R|%P|%D|%l").splitlines():
        name, marked, nodes, limit = line.strip().split("|")
        known = found.get(name)
        more = known.nodes if known else 0  # sinfo has a line for every state of the nodes
        found[name] = Partition(name, more + int(nodes), _minutes(limit), marked.endswith("*"))
    return found


def check_place(cluster: Cluster, nodes: int) -> None:
    """InputError where the partition is unknown, has too few nodes, or allows no job as long as this."""
    need_slurm()
    known = partitions()
    name = cluster.partition or next((p.name for p in known.values() if p.default), None)
    if name is None or name not in known:
        raise InputError(f"partition {name}: not of this cluster; set partition to one of {', '.join(sorted(known))}")
    place = known[name]
    if nodes > place.nodes:
        raise InputError(f"NODES={nodes}: partition {name} has {place.nodes}; ask for fewer, or set another partition")
    if place.minutes is not None and cluster.minutes > place.minutes:
        raise InputError(f"time is {cluster.time}: partition {name} allows {place.minutes} minutes; set time to less")


def job_state(job: str) -> str | None:
    """PENDING, RUNNING, ...; None once SLURM no longer lists it."""
    try:
        return ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip() or None
    except InputError as error:
        if "Invalid job id" in str(error):
            return None
        raise


def own_job(environment: Mapping[str, str]) -> str:
    """The number of the job that a process runs in. A task of an array is ARRAY_TASK.

    One of them has the array's own number as SLURM_JOB_ID, by which scancel and scontrol mean all of them.
    """
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return environment["SLURM_JOB_ID"] if array is None else f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"


def seconds_left(job: str) -> float:
    """Until the time limit of a running job; infinite where it has none."""
    left = ask("squeue", "--noheader", f"--jobs={job}", "--format=%L").strip()
    return math.inf if left in ("UNLIMITED", "NOT_SET", "INVALID", "") else _seconds(left)


def node_address(node: str) -> str:
    """Where a node is reached; node names need not resolve."""
    match = re.search(r"NodeAddr=(\S+)", ask("scontrol", "show", "node", node))
    return match[1] if match else node


def first_node(nodes: str) -> str:
    """Of a list such as node[3-7]."""
    return ask("scontrol", "show", "hostnames", nodes).split()[0]


def requeue(job: str) -> None:
    """Back into the queue; nothing to do where it is there already, e.g. after a preemption."""
    try:
        ask("scontrol", "requeue", job)
    except InputError as error:
        if "pending" not in str(error):
            raise


def restarts(job: str) -> int:
    """How often a job was put back into the queue."""
    match = re.search(r"\bRestarts=(\d+)", ask("scontrol", "show", "job", job))
    return int(match[1]) if match else 0


def signal_tasks(step: str, signal: str) -> None:
    """To every task of a step ("12.0"), or of every step of a job ("12"), not to its batch script."""
    ask("scancel", f"--signal={signal}", step)


def _minutes(limit: str) -> int | None:
    return None if limit in ("infinite", "n/a") else int(_seconds(limit) // 60)


def _seconds(clock: str) -> float:
    """Of days-hours:minutes:seconds, of which the first parts may be missing."""
    days, _, rest = clock.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, mins, seconds = [0] * (3 - len(parts)) + parts
    return ((int(days or 0) * 24 + hours) * 60 + mins) * 60.0 + seconds
