"""Runs on the virtual cluster, what can happen to them, and how they must end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pineco.launch.cluster import Cluster
from pineco.launch.rundir.attempts import Attempt, read_attempts
from pineco.launch.rundir.heartbeat import read_beats
from pineco.launch.rundir.layout import JOB
from pineco.launch.submit import submit
from pineco.launch.submit.slurm import ask, job_state, signal_tasks
from pineco.pretrain.checkpoint import list_checkpoints
from pineco.pretrain.recipe.settings import Recipe

STEPS, WAIT = 30, 300


def wait(condition: Callable[[], object], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def ended(job: str) -> str:
    """How a job ended; PREEMPTED and NODE_FAIL are no end, it comes back."""
    wait(lambda: job_state(job) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"))
    return job_state(job) or ""


def said(run: Path) -> str:
    """What the job and its ranks wrote: for the message of a test that fails."""
    paths = [*(run / JOB / "submitit").glob("*.out"), *(run / JOB / "logs").glob("*.log")]
    return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in paths)


def steps_taken(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def trains(run: Path, step: int) -> Callable[[], bool]:
    """Whether both ranks of the present attempt train, and so many steps are taken."""
    return lambda: [beat.phase for beat in read_beats(run / JOB).values()] == ["step"] * 2 and steps_taken(run) >= step


def losses(run: Path) -> dict[int, str]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({row["step"] for row in rows}) == len(rows), "a step stands in the file twice"
    return {row["step"]: row["loss_hex"] for row in rows}


def assert_same(run: Path, other: Path) -> None:
    """Losses to the last bit, and every byte of the last checkpoint."""
    assert losses(run) == losses(other)
    ours, theirs = (list_checkpoints(path / "checkpoints")[-1] for path in (run, other))
    files = [json.loads((c.path / "manifest.json").read_text())["files"] for c in (ours, theirs)]
    assert files[0] == files[1]


def disturbed(
    recipe: Recipe, cluster: Cluster, run: Path, disturb: Callable[[str], object], step: int = 7
) -> tuple[str, list[Attempt]]:
    """A run that something happens to after some steps: (how its job ended, its attempts)."""
    job = submit.submit(recipe, run, cluster, 2)
    wait(trains(run, step))
    disturb(job)
    return ended(job), read_attempts(run / JOB)


# --- what can happen ----------------------------------------------------------------------------------------------


def kill_rank(run: Path, job: str, draw: random.Random) -> None:
    os.kill(read_beats(run / JOB)[draw.randrange(2)].pid, signal.SIGKILL)


def kill_all_ranks(run: Path, job: str, draw: random.Random) -> None:
    for beat in read_beats(run / JOB).values():
        os.kill(beat.pid, signal.SIGKILL)


def kill_srun(run: Path, job: str, draw: random.Random) -> None:
    pids = [pid for pid, words in _processes() if words[0].endswith("srun") and str(run) in words]
    os.kill(min(pids), signal.SIGKILL)  # the first one; the others are its children


def stop_rank(run: Path, job: str, draw: random.Random) -> None:
    os.kill(read_beats(run / JOB)[draw.randrange(2)].pid, signal.SIGSTOP)


def pause_rank(run: Path, job: str, draw: random.Random) -> None:
    pid = read_beats(run / JOB)[draw.randrange(2)].pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(draw.uniform(0.1, 6))
    os.kill(pid, signal.SIGCONT)


def warn(run: Path, job: str, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 3)):
        signal_tasks(job, "USR2")


def preempt(run: Path, job: str, draw: random.Random) -> None:
    urgent = ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, capture_output=True)


def fail_node(run: Path, job: str, draw: random.Random) -> None:
    node = f"node{draw.randint(1, 2)}"
    starts = len(read_attempts(run / JOB))
    update = ["scontrol", "update", f"nodename={node}"]
    subprocess.run([*update, "state=down", "reason=test"], check=True)
    wait(lambda: job_state(job) != "RUNNING" or len(read_attempts(run / JOB)) > starts)
    subprocess.run([*update, "state=resume"], check=False, capture_output=True)  # refused where it came back by itself


FAULTS = {
    fault.__name__: fault
    for fault in (kill_rank, kill_all_ranks, kill_srun, stop_rank, pause_rank, warn, preempt, fail_node)
}


@dataclass(frozen=True)
class Plan:
    """Faults of one seed, and after which step each comes."""

    faults: tuple[tuple[str, int], ...]


def plan(seed: int) -> Plan:
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(2, STEPS - 6), draw.randint(1, 3)))
    return Plan(tuple((draw.choice(sorted(FAULTS)), step) for step in steps))


def chaos(seed: int, recipe: Recipe, cluster: Cluster, run: Path) -> list[str]:
    """A run that meets the faults of a seed and must complete; the faults that were fired."""
    draw, fired = random.Random(seed), list[str]()
    job = submit.submit(recipe, run, cluster, 2)
    for name, step in plan(seed).faults:
        wait(lambda step=step: trains(run, step)() or job_state(job) == "COMPLETED")  # type: ignore[misc]
        if job_state(job) == "COMPLETED":
            break  # it was faster than the fault
        FAULTS[name](run, job, draw)
        fired.append(name)
        if name not in ("pause_rank",):
            starts = len(read_attempts(run / JOB))
            wait(lambda starts=starts: len(read_attempts(run / JOB)) > starts or job_state(job) == "COMPLETED")  # type: ignore[misc]
    assert ended(job) == "COMPLETED", said(run)
    return fired


def processes_of(folder: Path, module: str = "") -> list[int]:
    """Those whose command line names something in a folder, and a module: e.g. what a run left behind."""
    found = [(pid, words) for pid, words in _processes() if any(str(folder) in word for word in words)]
    return [pid for pid, words in found if not module or (module in words and not words[0].endswith("srun"))]


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def states_of_nodes() -> set[str]:
    """Once no job runs any more; a node may take a moment to come back."""
    wait(lambda: ask("squeue", "--noheader", "--states=running,completing").strip() == "", 60)
    return set(ask("sinfo", "--noheader", "--partition=main", "--format=%t").split())


def _processes() -> list[tuple[int, list[str]]]:
    """(pid, words) of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(path.name), (path / "cmdline").read_bytes().decode(errors="replace").split("\0")))
        except OSError:
            continue  # it ended
    return found
