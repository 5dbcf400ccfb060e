"""Where numbers come from: the model, commit, versions and hardware that computed them. Torch-free to import."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pineco

if TYPE_CHECKING:
    import torch

COMMIT = "COMMIT"  # file beside the packages of a copy
_ROOT = Path(pineco.__file__).resolve().parents[1]  # the checkout, or the folder that holds a copy
_PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow", "numpy")


class Model(Protocol):
    """What a report says of a model."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Fields that the reports of all evaluations of one model share: which model it is, and how it was measured."""

    model: str  # for people
    identity: str  # sha256 of the weights, or the name and tag of a published model
    precision: str = "fp32"
    hardware: str = ""
    commit: str | None = None  # of this code; ends in -dirty where files were changed
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # of the whole evaluation, without loading the model

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def measurement(model: Model, seconds: float = 0.0) -> dict[str, Any]:
    """The fields of `Measurement` by name, of a model that was measured here and now."""
    return {
        "model": model.name,
        "identity": model.identity,
        "seconds": seconds,
        **computed(model.device, model.precision),
    }


def computed(device: torch.device, precision: str) -> dict[str, Any]:
    """The fields of `Measurement` that are of no one model: precision, hardware, commit and versions."""
    return {"precision": precision, "hardware": hardware(device), "commit": commit(), "versions": versions()}


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
