"""A copy of the code for jobs that wait. Torch-free."""

from __future__ import annotations

import shutil
from pathlib import Path

from evals.commit import COMMIT, commit

PACKAGES = ("launch", "pretrain", "kernels", "data_pipeline", "evals")
_ROOT = Path(__file__).resolve().parents[1]


def copy_code(folder: Path) -> None:
    """The packages as they are now: editing them while a job waits or runs changes nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in PACKAGES:
        shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / COMMIT).write_text(f"{commit() or ''}\n")
