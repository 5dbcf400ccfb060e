"""Soft sorting in PyTorch, in chunks, with its own backward pass: what runs where the Triton kernels do not.

The permutation is written sorted-major, (rows, sorted n, original n). Groups of rows go through the network with their
values first, which is many small operations, then chunks of a group with their unit vectors, which is the work. A chunk
is laid out (wires, vectors, rows), so that a layer is one copy of whole wires and one `lerp` over contiguous memory,
and is small enough to stay in the cache. The backward pass recomputes the layers of a chunk: what is saved of a forward
pass is its input. A layer's matrix is symmetric, so gradients go back through the same mixing as values go forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from pineco.kernels.soft_sort.networks import Wiring
from pineco.kernels.soft_sort.relaxation import Relaxation

STATE = 1 << 18  # numbers in the state of a chunk, at most: 1 MB of fp32, a share of the second-level cache
STATES = 1 << 22  # numbers in the states of all layers of a chunk, for the backward pass, at most
SHARES = 1 << 21  # numbers that the values of a group leave for all layers, at most


class Phase(NamedTuple):
    """The values on the wires of some rows (R), through all layers (L)."""

    keeps: Tensor  # (L, n, R) share of itself that a wire keeps
    gaps: Tensor  # (L, n, R) how far a wire and its partner are in order
    after: Tensor  # (n, R) sorted values


def forward(values: Tensor, wiring: Wiring, relaxation: Relaxation) -> tuple[Tensor, Tensor]:
    """values (rows, n) to sorted (rows, n) and the transposed permutation (rows, sorted n, original n)."""
    rows, n = values.shape
    ordered, permutation = torch.empty_like(values), values.new_empty(rows, n, n)
    chunk, tile = chunk_size(n, min(STATE, permutation.numel() // 4))  # three states at a time, beside the output
    for group in _groups(values, wiring):
        phase = values_phase(values[group], wiring, relaxation)
        ordered[group] = phase.after.T
        for part, vectors in product(slices(phase.after.shape[1], chunk), slices(n, tile)):
            unit = unit_vectors(n, vectors, phase.after[:, part])
            permutation[group][part, :, vectors] = through(unit, wiring, phase.keeps[:, :, part]).permute(2, 0, 1)
    return ordered, permutation


def backward(
    grad_ordered: Tensor | None, grad_permutation: Tensor | None, values: Tensor, wiring: Wiring, relaxation: Relaxation
) -> Tensor:
    """Gradient to the values (rows, n), from gradients of both outputs of `forward`; None stands for zeros."""
    n, grad = values.shape[1], torch.empty_like(values)
    states = len(wiring.partner) + 4  # 4: gradients and what a layer makes on its way
    numbers = min(STATES, 2 * n * values.numel()) // states  # two permutations, for few rows
    chunk, tile = chunk_size(n, min(STATE, numbers))
    for group in _groups(values, wiring):
        phase = values_phase(values[group], wiring, relaxation)
        grad_keeps = torch.zeros_like(phase.keeps)
        if grad_permutation is not None:
            for part, vectors in product(slices(phase.after.shape[1], chunk), slices(n, tile)):
                piece = grad_permutation[group][part, :, vectors].permute(1, 2, 0).contiguous()
                keeps, before = phase.keeps[:, :, part], list[Tensor]()
                through(unit_vectors(n, vectors, phase.after[:, part]), wiring, keeps, before)
                add_gains(grad_keeps[:, :, part], piece, before, wiring, keeps)
        last = torch.zeros_like(phase.after) if grad_ordered is None else grad_ordered[group].T
        grad[group] = values_backward(last, grad_keeps, phase, wiring, relaxation).T
    return grad


def _groups(values: Tensor, wiring: Wiring) -> Iterator[slice]:
    """Rows whose shares, gaps and gradients of shares are half as much as the permutation of all rows, at most."""
    rows, n = values.shape
    return slices(rows, max(1, min(SHARES, rows * n * n // 2) // max(1, 3 * wiring.partner.numel())))


def values_phase(values: Tensor, wiring: Wiring, relaxation: Relaxation) -> Phase:
    """values (R, n). A row with a value that is not finite becomes NaN: it has no order."""
    wires = (values + (values * 0).sum(1, keepdim=True)).T.contiguous()
    keeps, gaps = (wires.new_empty(len(wiring.partner), *wires.shape) for _ in range(2))
    for number, (partner, side) in enumerate(zip(*wiring, strict=True)):
        gaps[number] = (wires - wires.index_select(0, partner)) * side[:, None].to(wires.dtype)
        keeps[number] = relaxation.keep(gaps[number])
        wires = mix(wires, partner, keeps[number])
    return Phase(keeps, gaps, wires)


def values_backward(grad: Tensor, grad_keeps: Tensor, phase: Phase, wiring: Wiring, relaxation: Relaxation) -> Tensor:
    """grad (n, R) of the sorted values, grad_keeps (L, n, R) of every wire's share, to (n, R) of the values."""
    for number in reversed(range(len(grad_keeps))):
        partner, side, gap = wiring.partner[number], wiring.side[number, :, None].to(grad.dtype), phase.gaps[number]
        slope = relaxation.slope(gap)
        of_keep = grad_keeps[number] + grad_keeps[number].index_select(0, partner)  # a comparator has one share
        pull = grad - grad.index_select(0, partner)  # times the difference of the values, which slope keeps in range
        grad = mix(grad, partner, phase.keeps[number]) + side * of_keep * slope + pull * (gap * slope)
    return grad


def through(state: Tensor, wiring: Wiring, keeps: Tensor, before: list[Tensor] | None = None) -> Tensor:
    """The end state of some vectors (n, vectors, R). The state before each layer is appended to `before`."""
    for partner, keep in zip(wiring.partner, keeps, strict=True):
        if before is not None:
            before.append(state)
        state = mix(state, partner, keep[:, None])
    return state


def add_gains(grad_keeps: Tensor, grad: Tensor, before: list[Tensor], wiring: Wiring, keeps: Tensor) -> None:
    """Adds to grad_keeps (L, n, R), the gradient of the shares, what follows from that of some vectors' end states.

    grad: (n, vectors, R). before: the state before each layer; used up.
    """
    for number in reversed(range(len(keeps))):
        partner, state = wiring.partner[number], before.pop()
        grad_keeps[number] += (state - state.index_select(0, partner)).mul_(grad).sum(1)
        grad = mix(grad, partner, keeps[number][:, None])


def mix(state: Tensor, partner: Tensor, keep: Tensor) -> Tensor:
    """One layer: every wire keeps a share of itself and takes the rest from its partner."""
    return torch.lerp(state.index_select(0, partner), state, keep)


def unit_vectors(n: int, vectors: slice, like: Tensor) -> Tensor:
    """(n, vectors, R): vector i is 1 on wire i, for every row of like (n, R)."""
    state = like.new_zeros(n, vectors.stop - vectors.start, like.shape[1])
    state.diagonal(-vectors.start).fill_(1)
    return state


def chunk_size(n: int, numbers: int) -> tuple[int, int]:
    """(rows, vectors) of a chunk whose state has about so many numbers: all vectors of a row where they fit."""
    vectors = min(n, max(1, numbers // n))
    return max(1, numbers // (n * vectors)), vectors


def slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
