"""How far a run has come, without torch."""

from __future__ import annotations

from pathlib import Path

INIT = "init"  # folder of a run that holds its first stage


def newest_step(run: Path) -> int:
    """Step of the newest published checkpoint; 0 where there is none."""
    steps = [int(path.parent.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*/manifest.json")]
    return max(steps, default=0)


def saved_steps(run: Path) -> int:
    """Steps that need not be taken again, those of a first stage included."""
    return newest_step(run / INIT) + newest_step(run)
