"""What to time of soft_sort, and against what: diffsort as it is published, and torch.compile of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from pineco.kernels.bench_case import Case
from pineco.kernels.soft_sort import reference, soft_sort
from pineco.kernels.soft_sort.networks import layers, wiring
from pineco.kernels.soft_sort.relaxation import Relaxation

_Sort = Callable[[Tensor], tuple[Tensor, Tensor]]
_STEEPNESS = 10.0
_CPU_SIZES = ((3136, 49),)  # (rows, n): 64 patch maps of 7 x 7
_CUDA_SIZES = (*_CPU_SIZES, (31_360, 49), (3136, 256))  # ten pairs of views as NeCo has; maps of 16 x 16


def cases(device: torch.device) -> Iterator[Case]:
    """The bitonic network with cauchy comparators in float32: forward, and with the gradient of the permutation."""
    for size in _CUDA_SIZES if device.type == "cuda" else _CPU_SIZES:
        yield from _rivals(*size, device, backward=False)
        yield from _rivals(*size, device, backward=True)


def _diffsort(n: int, device: torch.device) -> _Sort:
    try:
        from diffsort import DiffSortNet  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        message = "pineco: soft_sort is timed against diffsort, which is not installed; pip install -e '.[dev]'"
        raise SystemExit(message) from None
    net: _Sort = DiffSortNet("bitonic", n, device=str(device), steepness=_STEEPNESS, distribution="cauchy")
    return net


def _rivals(rows: int, n: int, device: torch.device, backward: bool) -> Iterator[Case]:
    random = torch.Generator().manual_seed(0)
    values = torch.rand((rows, n), generator=random).to(device).requires_grad_(backward)
    pull = torch.rand((rows, n, n), generator=random).to(device) if backward else None
    network, relaxation = wiring("bitonic", n, device), Relaxation("cauchy", _STEEPNESS)
    specification = partial(reference.soft_sort, wiring=network, relaxation=relaxation)
    candidates: dict[str, _Sort] = {
        "ours": partial(soft_sort, steepness=_STEEPNESS),
        "diffsort": _diffsort(n, device),
        "compiled": torch.compile(specification, dynamic=False),
    }
    comparators = sum(map(len, layers("bitonic", n)))
    passes = 2 if backward else 1
    for name, function in candidates.items():
        yield Case(
            op="soft_sort",
            case=f"{rows}x{n} bitonic cauchy float32 {'both passes' if backward else 'forward'}",
            candidate=name,
            run=partial(_step, function, values, pull),
            bytes=4 * passes * (rows * n * n + 2 * rows * n),
            flops=rows * n * comparators * (10 if backward else 4),  # of the vectors; back: 4, and 2 for the share
        )


def _step(sort: _Sort, values: Tensor, pull: Tensor | None) -> tuple[Tensor, ...]:
    outputs = sort(values)
    return outputs if pull is None else torch.autograd.grad(outputs[1], values, pull)
