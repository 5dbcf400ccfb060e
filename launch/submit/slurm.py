"""SLURM's commands, as far as they are used: words and exit codes, never a shell."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pineco.data_pipeline.errors import InputError
from pineco.launch.cluster import Cluster

_SECONDS = 60  # that a command of a busy controller may take


@dataclass(frozen=True)
class Partition:
    name: str
    nodes: int
    minutes: int | None  # longest job, None where there is no limit
    default: bool


@dataclass(frozen=True)
class Node:
    """What one node has for jobs."""

    cpus: int
    memory: int  # MiB
    gpus: int

    def has(self, need: Node) -> bool:
        return self.cpus >= need.cpus and self.memory >= need.memory and self.gpus >= need.gpus


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
        raise InputError(f"{command[0]}: {(complaints(command[0], done.stderr) or ['no message'])[-1]}")
    return done.stdout


def complaints(command: str, said: str) -> list[str]:
    """The lines of what a command wrote to stderr, without the name and `error:` that stand before each."""
    lines = (line.strip().removeprefix(f"{command}: ").removeprefix("error: ") for line in said.splitlines())
    return [line for line in lines if line]


def partitions() -> dict[str, Partition]:
    """By name, with the nodes that are in each."""
    found: dict[str, Partition] = {}
    for line in ask("sinfo", "--noheader", "--format=%R|%P|%D|%l").splitlines():
        name, marked, nodes, limit = line.strip().split("|")
        known = found.get(name)
        more = known.nodes if known else 0  # sinfo has a line for every state of the nodes
        found[name] = Partition(name, more + int(nodes), _minutes(limit), marked.endswith("*"))
    return found


def nodes_of(partition: str) -> list[Node]:
    """Every node of a partition, whatever its state."""
    found = ask("sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%c|%m|%G").splitlines()
    parts = (line.strip().split("|") for line in found)
    return [Node(_number(cpus), _number(memory), _gpus(gres)) for cpus, memory, gres in parts]


def check_place(cluster: Cluster, nodes: int) -> None:
    """InputError where the partition is unknown, allows no job as long as this, or has too few nodes of this size."""
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
    check_nodes(cluster, nodes, name, nodes_of(name))


def check_nodes(cluster: Cluster, nodes: int, partition: str, known: Sequence[Node]) -> None:
    """InputError naming the key of the cluster file that asks for more than so many nodes of a partition have.

    sbatch takes some of these requests, and the job waits for ever.
    """
    need = Node(cluster.tasks * cluster.cpus_per_task, memory_mib(cluster.memory), cluster.gpus_per_node)
    tasks = f" for each of {cluster.tasks} tasks" if cluster.tasks > 1 else ""
    asked = [
        ("gpus_per_node", f"{cluster.gpus_per_node}", need.gpus, [node.gpus for node in known], "GPUs"),
        ("cpus_per_task", f"{cluster.cpus_per_task}{tasks}", need.cpus, [node.cpus for node in known], "CPUs"),
        ("memory", f"{cluster.memory}", need.memory, [node.memory for node in known], "MiB"),
    ]
    for key, value, number, have, unit in asked:
        if sum(number <= of_node for of_node in have) < nodes:
            raise InputError(
                f"{key} is {value}: NODES={nodes} takes as many nodes with {number} {unit} each, "
                f"and those of partition {partition} have {_range(have)}; set {key} to less, or another partition"
            )
    if sum(node.has(need) for node in known) < nodes:
        raise InputError(
            f"gpus_per_node, cpus_per_task and memory: partition {partition} has each on {nodes} nodes, but not all "
            "three on the same ones; set one of them to less, or another partition"
        )


def job_state(job: str) -> str | None:
    """PENDING, RUNNING, ...; None once SLURM no longer lists it."""
    try:
        return ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip() or None
    except InputError as error:
        if "Invalid job id" in str(error):
            return None
        raise


def cancelled(job: str, restarts: int) -> bool:
    """Whether somebody ended a job with scancel; false for a preemption, a time limit and a node that failed.

    restarts: how often the job had been put back when the asking process was started. While the batch script still
    lives, scontrol only says COMPLETING: a limit then has a reason, a preemption its time, and what is back in the
    queue one restart more.
    """
    record = ask("scontrol", "show", "job", job).split("\n\n")[0]
    fields = dict(re.findall(r"(?<!\S)(JobState|Reason|Restarts|PreemptTime)=(\S+)", record))
    if fields.get("JobState") == "COMPLETING":
        calm = all(fields.get(name, "None") == "None" for name in ("Reason", "PreemptTime"))
        return calm and int(fields.get("Restarts", "0")) == restarts
    return fields.get("JobState") == "CANCELLED"


def release(job: str) -> None:
    """Lets a job start that was submitted with --hold."""
    ask("scontrol", "release", job)


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


def memory_mib(size: str | None) -> int:
    """Of a size as sbatch takes it, e.g. 900G, 1.5T or 4000 (MiB); 0 for none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", size or "0", re.IGNORECASE)
    if not match:
        raise InputError(f"memory is {size!r}; write it as SLURM does, e.g. 900G")
    return math.ceil(float(match[1]) * 1024.0 ** ("KMGT".index(match[2].upper() or "M") - 1))


def _gpus(gres: str) -> int:
    """Of a node's generic resources, e.g. 8 of gpu:h100:8(S:0-1),shard:16; 0 of (null)."""
    return sum(int(number) for number in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", gres))


def _number(text: str) -> int:
    """Some columns of sinfo end in a plus where nodes differ."""
    return int(text.rstrip("+"))


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def _minutes(limit: str) -> int | None:
    return None if limit in ("infinite", "n/a") else int(_seconds(limit) // 60)


def _seconds(clock: str) -> float:
    """Of days-hours:minutes:seconds, of which the first parts may be missing."""
    days, _, rest = clock.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, mins, seconds = [0] * (3 - len(parts)) + parts
    return ((int(days or 0) * 24 + hours) * 60 + mins) * 60.0 + seconds
