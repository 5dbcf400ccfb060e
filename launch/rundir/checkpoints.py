"""How far a run has come, without torch."""

from __future__ import annotations

from pathlib import Path

from pineco.launch.rundir.layout import INIT, published
from pineco.pretrain.run_files import step_of


def newest_step(run: Path) -> int:
    """Step of the newest published checkpoint; 0 where there is none."""
    return max((step_of(path.name) for path in published(run)), default=0)


def saved_steps(run: Path) -> int:
    """Steps that need not be taken again, those of a first stage included."""
    return newest_step(run / INIT) + newest_step(run)
