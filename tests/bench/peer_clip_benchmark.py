"""clip-benchmark's command line in the peers' environment (`make peers`), and its figures beside ours."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError

PYTHON = Path(__file__).resolve().parents[2] / ".venv-peers" / "bin" / "python"
TOLERANCE = 1e-6
_OURS_ALONE = "mean_recall@"  # the mean of the two recalls, which clip-benchmark does not print

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Peers:
    """What one call gave."""

    seconds: float  # of the whole process
    cpu: float  # seconds that it and its workers computed
    metrics: dict[str, Metrics]  # by task


@dataclass(frozen=True)
class Pair:
    """One figure by both programs."""

    task: str
    metric: str
    ours: float
    theirs: float

    @property
    def agrees(self) -> bool:
        return abs(self.ours - self.theirs) <= TOLERANCE

    def record(self) -> dict[str, str | float | bool]:
        return {"task": self.task, "metric": self.metric, "ours": self.ours, "theirs": self.theirs}


def missing() -> str | None:
    """Why clip-benchmark cannot be run here; None where it can."""
    return None if PYTHON.exists() else f"needs clip-benchmark in {PYTHON.parents[1].name}; run make peers"


def run_clip_benchmark(
    model: str,
    root: Path,
    tasks: Sequence[str],
    out: Path,
    *,
    batch_size: int,
    workers: int,
    environment: Mapping[str, str],
) -> Peers:
    """Its figures in fp32 of all tasks by one call, as its users make it.

    model: NAME:FILE of weights, or local-dir:DIR. out: an empty folder for what it writes. workers: at most as many as
    a set has shards. Raises InputError where it is not installed or ends with an error.
    """
    if (why := missing()) is not None:
        raise InputError(why)
    name, pretrained = (model, "") if model.startswith("local-dir:") else model.split(":", 1)
    command = [str(PYTHON), "-m", "clip_benchmark.cli", "eval", "--quiet", "--no_amp"]
    command += ["--dataset", *(f"wds/{task}" for task in tasks), "--dataset_root", f"{root}/{{dataset_cleaned}}"]
    command += ["--model", name, "--pretrained", pretrained, "--recall_k", "1", "5", "10"]
    command += ["--batch_size", str(batch_size), "--num_workers", str(workers), "--output", f"{out}/{{dataset}}.json"]
    started, cpu = time.perf_counter(), children_cpu()
    done = subprocess.run(command, capture_output=True, text=True, env=dict(environment), cwd=out)
    seconds, cpu = time.perf_counter() - started, children_cpu() - cpu
    if done.returncode:
        raise InputError(f"clip-benchmark ended with an error: {_last_line(done.stderr)}")
    return Peers(seconds, cpu, {task: json.loads((out / f"{task}.json").read_text())["metrics"] for task in tasks})


def pair_up(ours: Mapping[str, Metrics], theirs: Mapping[str, Metrics]) -> list[Pair]:
    """Every figure that both programs have; raises ValueError where one program has a figure that the other lacks.

    clip-benchmark prints acc5 as NaN where there are fewer than five classes, and we leave it out.
    """
    pairs = []
    for task, metrics in theirs.items():
        known = {name: value for name, value in metrics.items() if not math.isnan(value)}
        own = {name: value for name, value in ours[task].items() if not name.startswith(_OURS_ALONE)}
        if own.keys() != known.keys():
            raise ValueError(f"{task}: {sorted(own)} here, but {sorted(known)} there")
        pairs += [Pair(task, name, own[name], known[name]) for name in sorted(own)]
    return pairs


def children_cpu() -> float:
    """Seconds that all processes computed that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")[:300]
