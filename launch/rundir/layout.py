"""Names of what lies in a run directory, each of them once. Torch-free.

RUN/recipe.yaml, code.jsonl, run.log, lease.json     written when a run is opened
    metrics.jsonl, tensorboard/                      see pineco.pretrain.run_files
    checkpoints/step_00000460/, reports/step_00000460.json
    bad_samples/rank_00000.jsonl
    report.json, .md, .html, curve.svg               see pineco.evals.report.write
    init/                                            the run directory of the first stage
    job/                                             of a run on a cluster
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pineco.pretrain.run_files import MANIFEST, METRICS, STEP, TENSORBOARD, step_of

RECIPE = "recipe.yaml"  # of RUN, and of RUN/job as it was submitted
STARTS = "code.jsonl"  # a line a start: code, versions, device
LOG = "run.log"
LEASE = "lease.json"
CLAIM = ".lease_"  # begins the name of a lease that is being taken
CHECKPOINTS, REPORTS, BAD_SAMPLES = "checkpoints", "reports", "bad_samples"  # folders
INIT = "init"  # folder that holds the first stage
JOB = "job"  # folder

# In RUN/job:
SPEC, ID, CODE = "spec.json", "id", "code"  # what runs, the number of its job, the folder of its code
STOP = "stop"  # there while the run is asked to save and end, and not to start again
LOCK = "lock"  # locked by the kernel while a process submits: free as soon as that process is gone
ATTEMPTS, PHASES = "attempts.jsonl", "phases.jsonl"
LOGS, SUBMITIT, EVALUATIONS = "logs", "submitit", "evaluations"  # folders
BEATS, STACKS, CRASHES, LEFT = "beats", "stacks", "crashes", "left"  # folders with a file a rank
RANK = "rank_"  # begins their names

FOLDERS = (INIT, JOB, BAD_SAMPLES, CHECKPOINTS, REPORTS, TENSORBOARD)  # of a run; none of them holds another run
BEFORE_OPENING = (
    JOB,
    INIT,
    LEASE,
    CLAIM,
    f".{LEASE}.",
)  # may be there before a run is opened: what begins so


def metrics(run: Path) -> Path:
    return run / METRICS


def published(run: Path) -> list[Path]:
    """Folders of the published checkpoints, oldest first."""
    return sorted(path.parent for path in (run / CHECKPOINTS).glob(f"{STEP}*/{MANIFEST}"))


def report_of(run: Path, checkpoint: str) -> Path:
    """The report of a checkpoint by that name."""
    return run / REPORTS / f"{checkpoint}.json"


def by_step(folder: Path) -> dict[int, Path]:
    """The JSON files that are called like checkpoints, by step, in order: reports, or notes of evaluations."""
    return {step_of(path.stem): path for path in sorted(folder.glob(f"{STEP}*.json"))}


def rank_name(rank: int) -> str:
    return f"{RANK}{rank:05}"


def rank_files(folder: Path, suffix: str = "") -> Iterator[tuple[int, Path]]:
    """(rank, file) in order; suffix: the end of their names, which is no part of the number."""
    for path in sorted(folder.glob(f"{RANK}*{suffix}")):
        yield int(path.name.removesuffix(suffix).removeprefix(RANK)), path
