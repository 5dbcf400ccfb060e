"""Which implementation runs: the Triton kernels, or the PyTorch reference that is their specification."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from torch import Tensor

from pineco.kernels.interpreter import interpreting, mend_interpreter

Backend = Literal["triton", "reference"]
_INSTALLED = find_spec("triton") is not None  # at import, as the next line: torch.compile cannot trace either
if _INSTALLED and interpreting():
    mend_interpreter()


def choose_backend(asked: Backend | None, tensor: Tensor, *, obstacle: str | None = None) -> Backend:
    """Triton for CUDA tensors that it supports, else the reference; what was asked for, or a ValueError.

    obstacle: why the kernels cannot take these arguments, e.g. "n is 2000 (limit 1024)"; None where they can. Asking
    for `triton` never falls back in silence. With TRITON_INTERPRET=1 in the environment before the kernels are
    imported, they run on CPU tensors, too: slowly, for tests, and only where they are asked for.
    """
    if asked not in (None, "triton", "reference"):
        raise ValueError(f"backend is {asked!r}; it must be 'triton', 'reference' or None, which chooses")
    if asked == "reference":
        return "reference"
    if obstacle is None:
        obstacle = _no_place_for_triton(tensor, allow_interpreter=asked == "triton")
    if obstacle is None:
        return "triton"
    if asked == "triton":
        raise ValueError(f"backend 'triton' cannot run here: {obstacle}; pass backend='reference', or None")
    return "reference"


def _no_place_for_triton(tensor: Tensor, *, allow_interpreter: bool) -> str | None:
    if not _INSTALLED:
        return "triton is not installed"
    if tensor.is_cuda:
        return None
    if allow_interpreter and tensor.device.type == "cpu" and interpreting():
        return None
    return f"the tensors are on {tensor.device}, and TRITON_INTERPRET=1 is not set"
