"""A copy of the code for jobs that wait. Torch-free."""

from __future__ import annotations

import shutil
from pathlib import Path

import pineco
from pineco.evals.results.provenance import COMMIT, commit


def copy_code(folder: Path) -> None:
    """Copy the package as it is now to FOLDER/pineco: editing it while a job waits or runs changes nothing.

    The links of a checkout (pineco/launch and its siblings) become folders in the copy.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source = Path(pineco.__file__).parent
    shutil.copytree(source, folder / "pineco", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / COMMIT).write_text(f"{commit() or ''}\n")
