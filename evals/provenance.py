"""Where numbers come from: versions of what computes them, hardware."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow", "numpy")


def versions() -> dict[str, str]:
    """Version by package, Python's among them."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def hardware(device: torch.device) -> str:
    """The device that computes, e.g. "NVIDIA H100 80GB HBM3" or "cpu x86_64, 8 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"
