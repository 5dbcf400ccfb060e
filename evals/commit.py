"""The commit of the code that runs. Torch-free."""

from __future__ import annotations

import subprocess
from pathlib import Path

COMMIT = "COMMIT"  # file beside the packages of a copy
_ROOT = Path(__file__).resolve().parents[1]


def commit() -> str | None:
    """Commit of the checkout that holds this file, -dirty if it was changed; of the original, in a copy.

    None where neither is known.
    """
    if (_ROOT / COMMIT).is_file():
        return (_ROOT / COMMIT).read_text().strip() or None
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != _ROOT:  # installed inside somebody else's repository
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
