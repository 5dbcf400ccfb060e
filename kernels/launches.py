"""What an op's kernel.py tells the ahead-of-time gate: every launch that can occur."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Launch:
    """One specialisation of one Triton kernel. `kernels/<op>/kernel.py` has `launches() -> list[Launch]`.

    signature: Triton type by argument, e.g. {"values": "*fp32", "rows": "i32"}; constexprs are left out.
    aligned: integer arguments that are multiples of 16 in this launch; pointers always are, as torch allocates them.
    """

    name: str  # unique in its op, e.g. "forward-bf16"
    kernel: Any  # what @triton.jit made
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    aligned: tuple[str, ...] = ()
