"""Where numbers come from: the commit, the versions and the hardware that computed them. Torch-free to import."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pineco

if TYPE_CHECKING:
    import torch

COMMIT = "COMMIT"  # file beside the packages of a copy
_ROOT = Path(pineco.__file__).resolve().parents[1]  # the checkout, or the folder that holds a copy
_PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow", "numpy")


def versions() -> dict[str, str]:
    """Version by package, Python's among them."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def hardware(device: torch.device) -> str:
    """The device that computes, e.g. "NVIDIA H100 80GB HBM3" or "cpu x86_64, 8 threads"."""
    import torch  # deferred: the commit is asked for on login nodes

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"


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
