"""What computed a record of results/kernels: commit, versions, device, date."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

_PACKAGES = ("torch", "triton", "numpy")


def provenance() -> dict[str, object]:
    """Commit of the checkout, -dirty if it was changed, None outside one; versions by package; today's date, UTC."""
    packages = {name: version(name) for name in _PACKAGES if find_spec(name)}
    return {
        "commit": _commit(Path(__file__).resolve().parent),
        "versions": {"python": platform.python_version()} | packages,
        "date": datetime.now(UTC).date().isoformat(),
    }


def hardware(device: torch.device) -> str:
    """The device that computes, e.g. "NVIDIA H100 80GB HBM3" or "cpu x86_64, 8 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"


def _commit(folder: Path) -> str | None:
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.parent:  # installed inside somebody else's repository
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
