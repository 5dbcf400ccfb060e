"""Kernels whose wires lie in memory: a layer loads both wires of its comparators, mixes and stores them.

Layers of one program exchange through the first-level cache, with a barrier between them. So they take any network and
any n, in a loop over the layers. The values are too little work to mind; of the permutation, these kernels do what
registers.py does not: odd-even networks, and the gradient of large bitonic ones.

bits: 2^bits wires are enough for n; a layer has 2^(bits - 1) slots for comparators. WIDTH: that many lanes or more.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from pineco.kernels.soft_sort.comparators import argument, comparators, density, mix, mix_values, share

_INTEGERS = ["rows", "n", "bits", "layers", "bitonic"]  # one compilation for all of them


@triton.jit
def _copy_rows(source, target, row, rows, n, poison, WIDTH: tl.constexpr):
    """Copies rows, and returns (R, 1) zeros: NaN for a row with a value that is not finite."""
    wire = tl.arange(0, 2 * WIDTH)
    inside = (row < rows)[:, None] & (wire < n)[None, :]
    at = row.to(tl.int64)[:, None] * n + wire[None, :]
    v = tl.load(source + at, mask=inside, other=0.0)
    own = tl.sum(v * 0.0, 1)[:, None]
    tl.store(target + at, v + own + poison, mask=inside)
    return own


@triton.jit(do_not_specialize=_INTEGERS)
def values_forward(
    values, ordered, shares, rows, n, bits, layers, bitonic, steepness, art_lambda,
    DISTRIBUTION: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ordered (rows, n), and shares (rows, layers, 2^(bits - 1)) of every comparator; 1 where it does not exist."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    poison = _copy_rows(values, ordered, row, rows, n, 0.0, WIDTH)
    wires = ordered + row.to(tl.int64)[:, None] * n
    number = tl.arange(0, WIDTH)[None, :]
    slots = 1 << (bits - 1)
    for layer in range(layers):
        tl.debug_barrier()
        a, b, exists, direction = comparators(layer, n, bits, bitonic, WIDTH)
        inside = (row < rows)[:, None] & exists[None, :]
        v_a = tl.load(wires + a[None, :], mask=inside, other=0.0)
        v_b = tl.load(wires + b[None, :], mask=inside, other=0.0)
        gap = direction[None, :] * (v_b - v_a)
        u, _ = argument(gap, steepness, art_lambda, DISTRIBUTION)
        keep = tl.where(exists[None, :], share(gap, u, DISTRIBUTION), 1.0) + poison
        at = shares + (row.to(tl.int64)[:, None] * layers + layer) * slots + number
        tl.store(at, keep, mask=(row < rows)[:, None] & (number < slots))
        v_a, v_b = mix_values(v_a, v_b, keep)
        tl.store(wires + a[None, :], v_a, mask=inside)
        tl.store(wires + b[None, :], v_b, mask=inside)


@triton.jit(do_not_specialize=_INTEGERS)
def values_backward(
    values, grad_ordered, gains, shares, state, grad, rows, n, bits, layers, bitonic, steepness, art_lambda,
    DISTRIBUTION: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """grad (rows, n) from grad_ordered (rows, n) and gains, the gradient of the shares.

    state: (rows, n) of scratch. shares are replaced by the differences that they came from.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    poison = _copy_rows(values, state, row, rows, n, 0.0, WIDTH)
    _copy_rows(grad_ordered, grad, row, rows, n, poison, WIDTH)
    wires = row.to(tl.int64)[:, None] * n
    number = tl.arange(0, WIDTH)[None, :]
    slots = 1 << (bits - 1)
    for layer in range(layers):
        tl.debug_barrier()
        a, b, exists, _ = comparators(layer, n, bits, bitonic, WIDTH)
        inside = (row < rows)[:, None] & exists[None, :]
        v_a = tl.load(state + wires + a[None, :], mask=inside, other=0.0)
        v_b = tl.load(state + wires + b[None, :], mask=inside, other=0.0)
        at = (row.to(tl.int64)[:, None] * layers + layer) * slots + number
        keep = tl.load(shares + at, mask=inside, other=1.0)
        tl.store(shares + at, v_b - v_a, mask=inside)
        v_a, v_b = mix_values(v_a, v_b, keep)
        tl.store(state + wires + a[None, :], v_a, mask=inside)
        tl.store(state + wires + b[None, :], v_b, mask=inside)
    for done in range(layers):
        tl.debug_barrier()
        layer = layers - 1 - done
        a, b, exists, direction = comparators(layer, n, bits, bitonic, WIDTH)
        inside = (row < rows)[:, None] & exists[None, :]
        at = (row.to(tl.int64)[:, None] * layers + layer) * slots + number
        difference = tl.load(shares + at, mask=inside, other=0.0)
        gap = direction[None, :] * difference
        u, slope = argument(gap, steepness, art_lambda, DISTRIBUTION)
        g_a = tl.load(grad + wires + a[None, :], mask=inside, other=0.0)
        g_b = tl.load(grad + wires + b[None, :], mask=inside, other=0.0)
        slope *= density(u, DISTRIBUTION)
        of_keep = direction[None, :] * tl.load(gains + at, mask=inside, other=0.0)
        push = of_keep * slope + (g_b - g_a) * (gap * slope)  # (g_b - g_a) * gap could leave float32's range
        g_a, g_b = mix(g_a, g_b, share(gap, u, DISTRIBUTION) + poison)
        tl.store(grad + wires + a[None, :], g_a - push, mask=inside)
        tl.store(grad + wires + b[None, :], g_b + push, mask=inside)


@triton.jit
def store_unit_vectors(state, pitch, n, first, lanes, WIDTH: tl.constexpr, LANES: tl.constexpr):
    """state (n, LANES), its wires `pitch` apart: vector v is 1 on wire first + v. Only `lanes` of them have a place."""
    wire = tl.arange(0, 2 * WIDTH)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    tl.store(state + wire * pitch + lane, tl.where(wire == first + lane, 1.0, 0.0), mask=(wire < n) & (lane < lanes))


@triton.jit
def through(
    state, pitch, shares, differences, n, bits, layers, bitonic, lanes,
    WIDTH: tl.constexpr, LANES: tl.constexpr, DIFFERENCES: tl.constexpr,
):  # fmt: skip
    """Such a state through all layers, in place.

    With DIFFERENCES, also stores by how much partners differ before each layer: (layers, 2^(bits - 1), LANES).
    """
    lane = tl.arange(0, LANES)[None, :]
    for layer in range(layers):
        tl.debug_barrier()
        a, b, exists, _ = comparators(layer, n, bits, bitonic, WIDTH)
        inside = exists[:, None] & (lane < lanes)
        slot = layer * (1 << (bits - 1)) + tl.arange(0, WIDTH)
        keep = tl.load(shares + slot, mask=exists, other=1.0)[:, None]
        x_a = tl.load(state + a[:, None] * pitch + lane, mask=inside, other=0.0)
        x_b = tl.load(state + b[:, None] * pitch + lane, mask=inside, other=0.0)
        if DIFFERENCES:
            tl.store(differences + slot[:, None] * LANES + lane, x_a - x_b, mask=inside)
        x_a, x_b = mix(x_a, x_b, keep)
        tl.store(state + a[:, None] * pitch + lane, x_a, mask=inside)
        tl.store(state + b[:, None] * pitch + lane, x_b, mask=inside)


@triton.jit
def back(
    state, shares, gains, differences, n, bits, layers, bitonic, older, WIDTH: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """The gradient of the end state (n, LANES), in place, through all layers; adds to the gains of their shares.

    older: whether there is something to add to.
    """
    lane = tl.arange(0, LANES)[None, :]
    for done in range(layers):
        tl.debug_barrier()
        layer = layers - 1 - done
        a, b, exists, _ = comparators(layer, n, bits, bitonic, WIDTH)
        slot = layer * (1 << (bits - 1)) + tl.arange(0, WIDTH)
        g_a = tl.load(state + a[:, None] * LANES + lane, mask=exists[:, None], other=0.0)
        g_b = tl.load(state + b[:, None] * LANES + lane, mask=exists[:, None], other=0.0)
        difference = tl.load(differences + slot[:, None] * LANES + lane, mask=exists[:, None], other=0.0)
        before = tl.load(gains + slot, mask=exists & older, other=0.0)
        tl.store(gains + slot, before + tl.sum((g_a - g_b) * difference, 1), mask=exists)
        g_a, g_b = mix(g_a, g_b, tl.load(shares + slot, mask=exists, other=1.0)[:, None])
        tl.store(state + a[:, None] * LANES + lane, g_a, mask=exists[:, None])
        tl.store(state + b[:, None] * LANES + lane, g_b, mask=exists[:, None])


@triton.jit(do_not_specialize=_INTEGERS)
def permutation_in_memory(
    shares, permutation, n, bits, layers, bitonic, WIDTH: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """permutation (rows, sorted n, original n) from the shares of every row; a program a tile of LANES originals."""
    tiles = tl.cdiv(n, LANES)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * LANES
    state = permutation + row * n * n + first
    store_unit_vectors(state, n, n, first, n - first, WIDTH, LANES)
    shares += row * layers * (1 << (bits - 1))
    through(state, n, shares, shares, n, bits, layers, bitonic, n - first, WIDTH, LANES, False)


@triton.jit(do_not_specialize=_INTEGERS)
def permutation_backward_in_memory(
    shares, grad_permutation, gains, scratch, rows, n, bits, layers, bitonic,
    WIDTH: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """gains, the gradient of the shares, 0 for what does not exist. A program takes row after row, tile after tile.

    scratch: for each program a state (2^bits, LANES), then the differences of all layers: see `through`.
    """
    lane = tl.arange(0, LANES)[None, :]
    wire = tl.arange(0, 2 * WIDTH)[:, None]
    slots = 1 << (bits - 1)
    state = scratch + tl.program_id(0).to(tl.int64) * (layers + 2) * slots * LANES
    differences = state + 2 * slots * LANES
    for turn in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(turn, tl.int64)
        own_shares = shares + row * layers * slots
        own_gains = gains + row * layers * slots
        for first in range(0, n, LANES):
            tl.debug_barrier()
            store_unit_vectors(state, LANES, n, first, LANES, WIDTH, LANES)
            through(state, LANES, own_shares, differences, n, bits, layers, bitonic, LANES, WIDTH, LANES, True)
            tl.debug_barrier()
            at = grad_permutation + row * n * n + first + wire * n + lane
            g = tl.load(at, mask=(wire < n) & (first + lane < n), other=0.0)
            tl.store(state + wire * LANES + lane, g, mask=wire < n)
            back(state, own_shares, own_gains, differences, n, bits, layers, bitonic, first > 0, WIDTH, LANES)
