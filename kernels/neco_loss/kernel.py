"""Launches of the Triton kernels: the shares of every comparator of both sides, the loss of the rows, and back.

All tensors are fp32 and contiguous. Rows go through in parts, whose scratch stays in the second-level cache. Nothing
here waits for the device or looks at its data, so that a CUDA graph can record it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import get_args

import torch
import triton
from torch import Tensor

from pineco.kernels.launches import Launch
from pineco.kernels.neco_loss.memory import loss_in_memory
from pineco.kernels.neco_loss.registers import loss_in_registers
from pineco.kernels.soft_sort import kernel as sorting
from pineco.kernels.soft_sort.kernel import Plan, Size
from pineco.kernels.soft_sort.memory import values_backward
from pineco.kernels.soft_sort.networks import LARGEST, Network
from pineco.kernels.soft_sort.relaxation import Relaxation

_REGISTER_BITS = 7  # states of 256 wires leave no room for three of them
_LANES = 32  # vectors of a tile: one for each thread of a warp
_MEMORY_LANES = {32: 32, 128: 16, 512: 8}  # by WIDTH: as many programs as possible, whose scratch fits in the cache
_SHARES = 1 << 25  # bytes of the shares and gains of a part
_SCRATCH = 1 << 25  # bytes for all programs of the kernel in memory


def forward(
    student: Tensor, teacher: Tensor, scale: Tensor, network: Network,
    student_relaxation: Relaxation, teacher_relaxation: Relaxation, gradient: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Similarities (rows, n) of both sides and the rows' shares of the loss (rows,) to the loss of every row (rows,).

    And its gradient to the student's similarities (rows, n), if it is wanted. n is at least 2.
    """
    size = sorting.network_size(network, student.shape[1])
    losses, grad = torch.empty_like(scale), torch.empty_like(student) if gradient else None
    for part in _parts(len(student), size):
        _, teacher_shares = sorting.sort_values(teacher[part], size, teacher_relaxation)
        state, shares = sorting.sort_values(student[part], size, student_relaxation)
        gains = torch.empty_like(shares) if gradient else shares
        _launch_loss(teacher_shares, shares, scale[part], losses[part], gains, size, gradient)
        if grad is not None:
            plan = sorting.values_plan(values_backward, size.bits, student_relaxation.distribution)
            plan.launch(
                triton.cdiv(len(state), plan.constexprs["ROWS"]), student[part], torch.zeros_like(state), gains, shares,
                state, grad[part], len(state), *size, student_relaxation.steepness, student_relaxation.art_lambda,
            )  # fmt: skip
    return losses, grad


def launches() -> list[Launch]:
    """Every launch that can occur and is not one of soft_sort's, for the ahead-of-time gate."""
    found: dict[str, Launch] = {}
    for bits, network, gradient in product(range(1, (LARGEST - 1).bit_length() + 1), get_args(Network), (False, True)):
        launch = sorting.compiled_launch(_plan(sorting.network_size(network, 1 << bits), gradient))
        found[launch.name] = launch
    return list(found.values())


def _launch_loss(
    teacher_shares: Tensor, shares: Tensor, scale: Tensor, losses: Tensor, gains: Tensor, size: Size, gradient: bool
) -> None:
    rows, plan = len(shares), _plan(size, gradient)
    tensors = teacher_shares, shares, scale, losses, gains
    if plan.kernel is loss_in_registers:
        plan.launch(rows, *tensors, size.n, size.layers)
        return
    numbers = (4 + size.layers * gradient) * size.slots * plan.constexprs["LANES"]
    programs = min(rows, sorting.most_programs(shares.device), max(1, _SCRATCH // (4 * numbers)))
    plan.launch(programs, *tensors, shares.new_empty(programs, numbers), rows, *size)


def _parts(rows: int, size: Size) -> Iterator[slice]:
    """Parts of about equal size."""
    limit = max(1, _SHARES // (3 * 4 * size.layers * size.slots))
    parts = triton.cdiv(rows, limit)
    step = triton.cdiv(rows, max(1, parts))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, max(1, step)))


def _plan(size: Size, gradient: bool) -> Plan:
    if size.bitonic and size.bits <= _REGISTER_BITS:
        warps = ({5: 4, 6: 4, 7: 8} if gradient else {6: 4, 7: 4}).get(size.bits, 1)  # fewer would spill
        constexprs = {"BITS": size.bits, "START": min(size.bits, 5), "LANES": _LANES, "GRADIENT": gradient}
        return Plan(loss_in_registers, constexprs, warps)
    width = sorting.memory_width(size.bits)
    constexprs = {"WIDTH": width, "LANES": _MEMORY_LANES[width], "GRADIENT": gradient}
    return Plan(loss_in_memory, constexprs, 4 if width == 32 else 8)
