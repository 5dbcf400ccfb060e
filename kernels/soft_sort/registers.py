"""Kernels that keep a bitonic network's state (wires, vectors) in registers and touch the permutation once.

Partners of a layer differ in one bit of their wire number, so a layer splits that axis by the bit, mixes and joins.
That only renames registers as long as one thread holds all wires of its vectors, which is how Triton lays out a tile of
32 vectors a warp. Wires are numbered as in the full network of 2^BITS wires, the first of which are dropped.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: RET505 - Triton goes on after a return in a branch that it knows to be taken

from __future__ import annotations

import triton
import triton.language as tl

from pineco.kernels.soft_sort.comparators import mix


@triton.jit
def _halves(x, BIT: tl.constexpr):
    """(W, V) to the wires whose bit is 0 and those whose bit is 1, (W/2, V) each, partners at the same place."""
    W: tl.constexpr = x.shape[0]
    V: tl.constexpr = x.shape[1]
    a, b = tl.split(tl.permute(tl.reshape(x, (W >> (BIT + 1), 2, 1 << BIT, V)), (0, 2, 3, 1)))
    return tl.reshape(a, (W // 2, V)), tl.reshape(b, (W // 2, V))


@triton.jit
def _whole(a, b, BIT: tl.constexpr):
    """The inverse of `_halves`."""
    K: tl.constexpr = a.shape[0]
    V: tl.constexpr = a.shape[1]
    pairs = tl.join(tl.reshape(a, (K >> BIT, 1 << BIT, V)), tl.reshape(b, (K >> BIT, 1 << BIT, V)))
    return tl.reshape(tl.permute(pairs, (0, 3, 1, 2)), (2 * K, V))


@triton.jit
def unit_vectors(first, START: tl.constexpr, LANES: tl.constexpr):
    """(2^START, LANES): vector v is 1 on wire first + v. The wires are the aligned 2^START ones around `first`."""
    wire = ((first >> START) << START) + tl.arange(0, 1 << START)
    return tl.where(wire[:, None] == (first + tl.arange(0, LANES))[None, :], 1.0, 0.0)


@triton.jit
def _slots(first, layer, K: tl.constexpr, BITS: tl.constexpr):
    """Where a row keeps the K comparators of a layer between the aligned 2K wires around `first`."""
    return layer * (1 << (BITS - 1)) + first // (2 * K) * K + tl.arange(0, K)


@triton.jit
def _layer(x, shares, first, BLOCK: tl.constexpr, STEP: tl.constexpr, BITS: tl.constexpr):
    """One layer on the state of the aligned wires around `first` that have met so far.

    Before block b, runs of 2^b wires have met no others. So the first layer of a block may find a state of half the
    wires, all others being zero, and returns the whole.
    """
    DOUBLES: tl.constexpr = STEP == 0 and x.shape[0] == 1 << BLOCK
    K: tl.constexpr = x.shape[0] if DOUBLES else x.shape[0] // 2
    keep = tl.load(shares + _slots(first, BLOCK * (BLOCK + 1) // 2 + STEP, K, BITS))[:, None]
    if DOUBLES:
        kept, given = keep * x, tl.fma(keep * -1.0, x, x)
        lower = (first >> BLOCK) & 1 == 0
        return _whole(tl.where(lower, kept, given), tl.where(lower, given, kept), BLOCK)
    else:
        a, b = _halves(x, BLOCK - STEP)
        a, b = mix(a, b, keep)
        return _whole(a, b, BLOCK - STEP)


@triton.jit
def _steps(x, shares, first, BLOCK: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr, BITS: tl.constexpr):
    """Layers FROM to TO - 1 of a block, which sorts runs of 2^(BLOCK + 1) wires."""
    for step in tl.static_range(FROM, TO):
        x = _layer(x, shares, first, BLOCK, step, BITS)
    return x


@triton.jit
def blocks(x, shares, first, BLOCKS: tl.constexpr, BITS: tl.constexpr):
    """The first BLOCKS blocks."""
    for block in tl.static_range(BLOCKS):
        x = _steps(x, shares, first, block, 0, block + 1, BITS)
    return x


@triton.jit
def _matrix(permutation, row, first, n, BITS: tl.constexpr, LANES: tl.constexpr):
    """Pointers (wires, LANES) into a row's sorted-major matrix, and which exist. BITS is the least that n fits in."""
    dropped = (1 << BITS) - n
    wire = tl.arange(0, 1 << BITS)
    original = first + tl.arange(0, LANES)
    inside = (wire >= dropped)[:, None] & ((original >= dropped) & (original < (1 << BITS)))[None, :]
    return permutation + (row * n * n - dropped * (n + 1)) + (wire[:, None] * n + original[None, :]), inside


@triton.jit(do_not_specialize=["n", "layers"])
def permutation_in_registers(
    shares, permutation, n, layers, BITS: tl.constexpr, START: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """permutation (rows, sorted n, original n) from the shares of every row; a program a tile of LANES originals.

    START: 2^START wires, LANES at least, are held from the beginning.
    """
    skipped = ((1 << BITS) - n) // LANES  # tiles of dropped wires only
    tiles = tl.maximum((1 << BITS) // LANES, 1) - skipped
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first = (tl.program_id(0) % tiles + skipped) * LANES
    x = blocks(unit_vectors(first, START, LANES), shares + row * layers * (1 << (BITS - 1)), first, BITS, BITS)
    at, inside = _matrix(permutation, row, first, n, BITS, LANES)
    tl.store(at, x, mask=inside)


@triton.jit
def _layer_backward(
    g, x, shares, gains, first, older, BLOCK: tl.constexpr, STEP: tl.constexpr, START: tl.constexpr, BITS: tl.constexpr
):  # fmt: skip
    """Gradient after a layer to the gradient before it. x: the state before the block.

    Adds to `gains`, the gradient of the shares. older: whether a tile of this row has been here before, so that there
    is something to add to where the tiles meet.
    """
    K: tl.constexpr = g.shape[0] // 2
    DOUBLES: tl.constexpr = STEP == 0 and BLOCK >= START
    lower = (first >> BLOCK) & 1 == 0
    slots = _slots(first, BLOCK * (BLOCK + 1) // 2 + STEP, K, BITS)
    x = _steps(x, shares, first, BLOCK, 0, STEP, BITS)
    a, b = _halves(g, BLOCK - STEP)
    if DOUBLES:  # one half is x, the other zero
        gain = tl.sum((a - b) * x, 1) * tl.where(lower, 1.0, -1.0)
    else:
        x_a, x_b = _halves(x, BLOCK - STEP)
        gain = tl.sum((a - b) * (x_a - x_b), 1)
    if g.shape[1] < 2 * K:  # no more wires than vectors are of this tile only
        gain += tl.load(gains + slots, mask=(slots >= 0) & older & (first % (2 * K) != 0), other=0.0)
    tl.store(gains + slots, gain)
    a, b = mix(a, b, tl.load(shares + slots)[:, None])
    if DOUBLES:
        return tl.where(lower, a, b)
    else:
        return _whole(a, b, BLOCK - STEP)


@triton.jit
def block_backward(
    g, x, shares, gains, first, older, BLOCK: tl.constexpr, START: tl.constexpr, BITS: tl.constexpr
):  # fmt: skip
    """Gradient after a block to the gradient before it. x: unit vectors.

    Recomputes the state before the block once, and from there the layers of the block for each of them.
    """
    x = blocks(x, shares, first, BLOCK, BITS)
    for number in tl.static_range(BLOCK + 1):
        g = _layer_backward(g, x, shares, gains, first, older, BLOCK, BLOCK - number, START, BITS)
    return g


@triton.jit(do_not_specialize=["n", "layers"])
def permutation_backward_in_registers(
    shares, grad_permutation, gains, n, layers, BITS: tl.constexpr, START: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """gains, the gradient of the shares; a program a row. Comparators that do not exist are not written."""
    row = tl.program_id(0).to(tl.int64)
    shares += row * layers * (1 << (BITS - 1))
    gains += row * layers * (1 << (BITS - 1))
    skipped = ((1 << BITS) - n) // LANES
    for tile in range(skipped, tl.maximum((1 << BITS) // LANES, 1)):
        first = tile * LANES
        at, inside = _matrix(grad_permutation, row, first, n, BITS, LANES)
        g = tl.load(at, mask=inside, other=0.0)
        x = unit_vectors(first, START, LANES)
        for number in tl.static_range(BITS):
            g = block_backward(g, x, shares, gains, first, tile > skipped, BITS - 1 - number, START, BITS)
        tl.debug_barrier()  # the next tile adds to what this one stored
