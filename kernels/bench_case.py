"""One thing to time. `kernels/<op>/bench.py` has `cases(device) -> Iterable[Case]`; pineco.kernels.bench runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One candidate at one size. Candidates of the same op and case are timed in turns, the first one is ours."""

    op: str  # name of the folder, e.g. "patch_distance"
    case: str  # sizes, dtype and pass, e.g. "640x49x49x256 float32 forward"
    candidate: str  # "ours", "eager", "compiled", ...
    run: Callable[[], object]
    bytes: int  # fewest bytes that must move: every input read once, every output written once
    flops: int  # floating-point operations that the result needs, whatever the candidate does
