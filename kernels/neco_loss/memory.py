"""The loss of a row with the wires in memory: odd-even networks, and those too large for registers.

As in soft_sort/memory.py, layers of one program exchange through the caches, with a barrier between them. Few programs
take row after row, so that the scratch of all of them stays in the second-level cache.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from pineco.kernels.neco_loss.registers import terms
from pineco.kernels.soft_sort.memory import back, store_unit_vectors, through


@triton.jit(do_not_specialize=["rows", "n", "bits", "layers", "bitonic"])
def loss_in_memory(
    teacher_shares, shares, scale, losses, gains, scratch, rows, n, bits, layers, bitonic,
    WIDTH: tl.constexpr, LANES: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """losses (rows,), times scale (rows,), and with GRADIENT gains, the gradient of the shares (rows, layers, slots).

    scratch: for each program two states (2^bits, LANES), and with GRADIENT the differences of all layers.
    """
    lane = tl.arange(0, LANES)[None, :]
    wire = tl.arange(0, 2 * WIDTH)[:, None]
    slots = 1 << (bits - 1)
    pitch = 4 * slots * LANES
    if GRADIENT:
        pitch += layers * slots * LANES
    target = scratch + tl.program_id(0).to(tl.int64) * pitch
    state = target + 2 * slots * LANES
    differences = state + 2 * slots * LANES
    for turn in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(turn, tl.int64)
        own = row * layers * slots
        weight = tl.load(scale + row)
        total = tl.zeros((LANES,), tl.float32)
        for first in range(0, n, LANES):
            tl.debug_barrier()
            store_unit_vectors(target, LANES, n, first, LANES, WIDTH, LANES)
            store_unit_vectors(state, LANES, n, first, LANES, WIDTH, LANES)
            through(
                target, LANES, teacher_shares + own, differences, n, bits, layers, bitonic, LANES, WIDTH, LANES, False
            )
            through(state, LANES, shares + own, differences, n, bits, layers, bitonic, LANES, WIDTH, LANES, GRADIENT)
            tl.debug_barrier()
            at = wire * LANES + lane
            wanted = tl.load(target + at, mask=wire < n, other=0.0)
            got = tl.load(state + at, mask=wire < n, other=1.0)
            term, divisor = terms(wanted, got, (wire < n) & (first + lane < n))
            total += tl.sum(term, 0)
            if GRADIENT:
                tl.store(state + at, wanted * -weight / divisor, mask=wire < n)
                back(state, shares + own, gains + own, differences, n, bits, layers, bitonic, first > 0, WIDTH, LANES)
        tl.store(losses + row, tl.sum(total, 0) * weight)
