"""Launches of the Triton kernels: values and the share of every comparator first, then the permutation, and back.

All tensors are fp32 and contiguous; the permutation and its gradient are (rows, sorted n, original n). Nothing here
waits for the device or looks at its data, so that a CUDA graph can record it.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple, get_args

import torch
import triton
from torch import Tensor

from pineco.kernels.launches import Launch
from pineco.kernels.soft_sort import memory, registers
from pineco.kernels.soft_sort.networks import LARGEST, Network
from pineco.kernels.soft_sort.relaxation import Distribution, Relaxation

_REGISTER_BITS = 7  # a gradient in registers holds 3 states: those of 256 wires leave no room for a second program
_LANES = 32  # vectors of a tile: one for each thread of a warp
_SCRATCH = 1 << 28  # bytes for all programs of a gradient in memory
_PROGRAMS = 4  # of a gradient in memory, for each multiprocessor
_TYPES = {"steepness": "fp32", "art_lambda": "fp32"} | dict.fromkeys(
    ("rows", "n", "bits", "layers", "bitonic"), "i32"
)  # of a kernel's arguments; the others are pointers to fp32


class Size(NamedTuple):
    """A network as the kernels take it."""

    n: int
    bits: int  # 2^bits wires are enough for n
    layers: int
    bitonic: int  # 1, or 0 for odd_even

    @property
    def slots(self) -> int:
        """Places for the comparators of a layer."""
        return 1 << (self.bits - 1)


class Plan(NamedTuple):
    """A kernel and what it is compiled for."""

    kernel: Any
    constexprs: dict[str, Any]
    num_warps: int

    def launch(self, grid: int, *arguments: Any) -> None:
        self.kernel[(grid,)](*arguments, **self.constexprs, num_warps=self.num_warps, num_stages=1)


def forward(values: Tensor, network: Network, relaxation: Relaxation) -> tuple[Tensor, Tensor]:
    """values (rows, n) to sorted (rows, n) and the transposed permutation (rows, sorted n, original n)."""
    rows, n = values.shape
    permutation, size = values.new_empty(rows, n, n), network_size(network, n)
    if not rows:
        return torch.empty_like(values), permutation
    ordered, shares = sort_values(values, size, relaxation)
    plan = _forward_plan(size)
    tiles = _tiles(size, plan.constexprs["LANES"])
    if plan.kernel is registers.permutation_in_registers:
        plan.launch(rows * tiles, shares, permutation, n, size.layers)
    else:
        plan.launch(rows * tiles, shares, permutation, *size)
    return ordered, permutation


def backward(
    grad_ordered: Tensor | None,
    grad_permutation: Tensor | None,
    values: Tensor,
    network: Network,
    relaxation: Relaxation,
) -> Tensor:
    """Gradient to the values (rows, n), from gradients of both outputs of `forward`; None stands for zeros."""
    rows, size, grad = len(values), network_size(network, values.shape[1]), torch.empty_like(values)
    if not rows:
        return grad
    state, shares = sort_values(values, size, relaxation)
    gains = torch.zeros_like(shares) if grad_permutation is None else _gains(shares, grad_permutation, size)
    if grad_ordered is None:
        grad_ordered = torch.zeros_like(values)
    plan = values_plan(memory.values_backward, size.bits, relaxation.distribution)
    plan.launch(
        triton.cdiv(rows, plan.constexprs["ROWS"]), values, grad_ordered, gains, shares, state, grad, rows, *size,
        relaxation.steepness, relaxation.art_lambda,
    )  # fmt: skip
    return grad


def launches() -> list[Launch]:
    """Every launch that can occur, for the ahead-of-time gate."""
    found: dict[str, Launch] = {}
    for bits, network in product(range(1, (LARGEST - 1).bit_length() + 1), get_args(Network)):
        size = network_size(network, 1 << bits)
        plans = [_forward_plan(size), _backward_plan(size)]
        for distribution in get_args(Distribution):
            plans += [values_plan(k, bits, distribution) for k in (memory.values_forward, memory.values_backward)]
        found |= {compiled_launch(plan).name: compiled_launch(plan) for plan in plans}
    return list(found.values())


def compiled_launch(plan: Plan) -> Launch:
    name = "-".join([plan.kernel.__name__, *(str(x) for x in plan.constexprs.values())])
    given = [x for x in plan.kernel.arg_names if x not in plan.constexprs]
    signature = {x: _TYPES.get(x, "*fp32") for x in given}
    return Launch(name, plan.kernel, signature, plan.constexprs, plan.num_warps, num_stages=1)


def sort_values(values: Tensor, size: Size, relaxation: Relaxation) -> tuple[Tensor, Tensor]:
    """Sorted values (rows, n), and the share of every comparator (rows, layers, slots)."""
    rows = len(values)
    ordered, shares = torch.empty_like(values), values.new_empty(rows, size.layers, size.slots)
    plan = values_plan(memory.values_forward, size.bits, relaxation.distribution)
    plan.launch(
        triton.cdiv(rows, plan.constexprs["ROWS"]), values, ordered, shares, rows, *size,
        relaxation.steepness, relaxation.art_lambda,
    )  # fmt: skip
    return ordered, shares


def _gains(shares: Tensor, grad_permutation: Tensor, size: Size) -> Tensor:
    """The gradient of every share, from that of the permutation. Slots without a comparator stay uninitialised."""
    rows, gains, plan = len(shares), torch.empty_like(shares), _backward_plan(size)
    if plan.kernel is registers.permutation_backward_in_registers:
        plan.launch(rows, shares, grad_permutation, gains, size.n, size.layers)
        return gains
    numbers = (size.layers + 2) * size.slots * plan.constexprs["LANES"]
    programs = min(rows, most_programs(shares.device), max(1, _SCRATCH // (4 * numbers)))
    scratch = shares.new_empty(programs, numbers)
    plan.launch(programs, shares, grad_permutation, gains, scratch, rows, *size)
    return gains


def most_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 2  # the interpreter: few, so that a program takes several rows
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def network_size(network: Network, n: int) -> Size:
    bits = (n - 1).bit_length()
    return Size(n, bits, bits * (bits + 1) // 2 if network == "bitonic" else n, int(network == "bitonic"))


def _tiles(size: Size, lanes: int) -> int:
    """Tiles of original wires to a row. Bitonic ones are tiles of the full network, but for those all dropped."""
    if not size.bitonic:
        return triton.cdiv(size.n, lanes)
    wires = 1 << size.bits
    return max(wires // lanes, 1) - (wires - size.n) // lanes


def memory_width(bits: int) -> int:
    """Comparators that a kernel in memory has lanes for: three sizes, so that there is little to compile."""
    return 32 if bits <= 6 else 128 if bits <= 8 else 512


def values_plan(kernel: Any, bits: int, distribution: Distribution) -> Plan:
    width = memory_width(bits)
    constexprs = {
        "DISTRIBUTION": distribution,
        "WIDTH": width,
        "ROWS": 128 // min(width, 128),
    }  # 4 comparators a thread
    return Plan(kernel, constexprs, max(1, width // 128))


def _forward_plan(size: Size) -> Plan:
    if not size.bitonic:
        return _memory_plan(memory.permutation_in_memory, size.bits)
    lanes, warps = {8: (16, 4), 9: (16, 8), 10: (16, 16)}.get(size.bits, (_LANES, 1))  # larger tiles would spill
    return Plan(registers.permutation_in_registers, _tile(size.bits, lanes), warps)


def _backward_plan(size: Size) -> Plan:
    if not size.bitonic or size.bits > _REGISTER_BITS:
        return _memory_plan(memory.permutation_backward_in_memory, size.bits)
    kernel = registers.permutation_backward_in_registers
    return Plan(kernel, _tile(size.bits, _LANES), {6: 4, 7: 8}.get(size.bits, 1))  # fewer warps spill on sm_80


def _tile(bits: int, lanes: int) -> dict[str, Any]:
    return {"BITS": bits, "START": min(bits, 5), "LANES": lanes}


def _memory_plan(kernel: Any, bits: int) -> Plan:
    width = memory_width(bits)
    return Plan(kernel, {"WIDTH": width, "LANES": 16 if width == 512 else _LANES}, 4 if width == 32 else 8)
