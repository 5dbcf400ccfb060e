"""The loss of a row with all wires of a reference's vector in the registers of a thread; see soft_sort/registers.py.

Vectors of teacher and student meet at the end of the network, and the student's gradient goes back from there: nothing
of size (n, n) leaves the chip.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from pineco.kernels.neco_loss.reference import SMALLEST
from pineco.kernels.soft_sort.registers import block_backward, blocks, unit_vectors

_SMALLEST = tl.constexpr(SMALLEST)


@triton.jit
def terms(wanted, got, inside):
    """-wanted · log(got), and what to divide `wanted` by for its gradient: infinity where that is 0. NaN stays."""
    low = got < _SMALLEST
    floored = tl.where(low, _SMALLEST, got)
    return tl.where(inside, -wanted * tl.log(floored), 0.0), tl.where(low | ~inside, float("inf"), got)


@triton.jit(do_not_specialize=["n", "layers"])
def loss_in_registers(
    teacher_shares, shares, scale, losses, gains, n, layers,
    BITS: tl.constexpr, START: tl.constexpr, LANES: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """losses (rows,), times scale (rows,), and with GRADIENT gains, the gradient of the shares; a program a row.

    Both shares are (rows, layers, 2^(BITS - 1)), as are the gains. Comparators that do not exist get none.
    """
    row = tl.program_id(0).to(tl.int64)
    own = row * layers * (1 << (BITS - 1))
    weight = tl.load(scale + row)
    dropped = (1 << BITS) - n
    skipped = dropped // LANES
    wire = tl.arange(0, 1 << BITS)
    total = tl.zeros((LANES,), tl.float32)
    for tile in range(skipped, tl.maximum((1 << BITS) // LANES, 1)):
        first = tile * LANES
        unit = unit_vectors(first, START, LANES)
        wanted = blocks(unit, teacher_shares + own, first, BITS, BITS)
        got = blocks(unit, shares + own, first, BITS, BITS)
        original = first + tl.arange(0, LANES)
        inside = (wire >= dropped)[:, None] & ((original >= dropped) & (original < (1 << BITS)))[None, :]
        term, divisor = terms(wanted, got, inside)
        total += tl.sum(term, 0)
        if GRADIENT:
            g = wanted * -weight / divisor
            for number in tl.static_range(BITS):
                g = block_backward(
                    g, unit, shares + own, gains + own, first, tile > skipped, BITS - 1 - number, START, BITS
                )
            tl.debug_barrier()  # the next tile adds to what this one stored
    tl.store(losses + row, tl.sum(total, 0) * weight)
