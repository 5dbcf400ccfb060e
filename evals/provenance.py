"""Where numbers come from: commit, versions of what computes them, hardware."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow", "numpy")


def commit() -> str | None:
    """Commit of the checkout that holds this file, -dirty if it was changed; None outside one."""
    folder = Path(__file__).resolve().parent
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


def versions() -> dict[str, str]:
    """Version by package, Python's among them."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def hardware(device: torch.device) -> str:
    """The device that computes, e.g. "NVIDIA H100 80GB HBM3" or "cpu x86_64, 8 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"
