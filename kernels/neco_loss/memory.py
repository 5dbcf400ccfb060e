"""The loss of a row with the wires in memory: odd-even networks, and those too large for registers.

As in soft_sort/memory.py, layers of one program exchange through the caches, with a barrier between them. Few programs
take row after row, so that the scratch of all of them stays in the second-level cache.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from kernels.neco_loss.registers import terms
from kernels.soft_sort.comparators import comparators, mix
from kernels.soft_sort.memory import _store_unit_vectors, _through


@triton.jit
def _back(
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
            _store_unit_vectors(target, LANES, n, first, LANES, WIDTH, LANES)
            _store_unit_vectors(state, LANES, n, first, LANES, WIDTH, LANES)
            _through(
                target, LANES, teacher_shares + own, differences, n, bits, layers, bitonic, LANES, WIDTH, LANES, False
            )
            _through(state, LANES, shares + own, differences, n, bits, layers, bitonic, LANES, WIDTH, LANES, GRADIENT)
            tl.debug_barrier()
            at = wire * LANES + lane
            wanted = tl.load(target + at, mask=wire < n, other=0.0)
            got = tl.load(state + at, mask=wire < n, other=1.0)
            term, divisor = terms(wanted, got, (wire < n) & (first + lane < n))
            total += tl.sum(term, 0)
            if GRADIENT:
                tl.store(state + at, wanted * -weight / divisor, mask=wire < n)
                _back(state, shares + own, gains + own, differences, n, bits, layers, bitonic, first > 0, WIDTH, LANES)
        tl.store(losses + row, tl.sum(total, 0) * weight)
