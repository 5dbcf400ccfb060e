"""Names of what training writes below a run directory, apart from the modules that write it and import torch."""

from __future__ import annotations

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"  # folder
MANIFEST = "manifest.json"  # of a checkpoint, and written last: what has it is published
STEP = "step_"  # begins the name of a checkpoint


def step_name(step: int) -> str:
    """The name of the checkpoint after so many steps; names sort as their steps do."""
    return f"{STEP}{step:08d}"


def step_of(name: str) -> int:
    """The step of a checkpoint, or of what is called like it; ValueError for another name."""
    return int(name.removeprefix(STEP))
