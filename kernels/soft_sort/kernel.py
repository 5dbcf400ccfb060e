"""Triton kernels of soft_sort: values, then permutation, and back."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.soft_sort.hypercube import backward, halves, mix, onward, whole

_ATAN = tl.constexpr((
    0.318309881, -0.106102468, 0.0636384838, -0.0452116025, 0.0338711369, -0.023886894, 0.013589112, -0.00511479071,
    0.000907144843,
))  # fmt: skip  # atan(w) / (pi w) in powers of w², 0 <= w <= 1: our fit, relative error 2e-7 in fp32
_LARGEST = tl.constexpr(3.4028234e38)
_SMALLEST_GAP = tl.constexpr(1e-10)


@triton.jit
def _atan_over_pi(w):
    square = w * w
    total = tl.full(w.shape, _ATAN[8], tl.float32)
    for k in tl.static_range(8):
        total = total * square + _ATAN[7 - k]
    return w * total


@triton.jit
def _argument(gap, steepness, art_lambda, DISTRIBUTION: tl.constexpr):
    """The size of the argument of F, and its derivative with respect to the size of the gap."""
    size = tl.abs(gap)
    if DISTRIBUTION == "logistic_phi":
        size = tl.minimum(size, _LARGEST)
        shifted = size + _SMALLEST_GAP
        power = tl.exp2(-art_lambda * tl.log2(shifted))
        u = steepness * (size * power)
        slope = steepness * power * (1.0 - art_lambda * (size / shifted))
    else:
        u = steepness * size
        slope = tl.full(gap.shape, 1.0, tl.float32) * steepness
    return u, slope


@triton.jit
def _keep(gap, u, DISTRIBUTION: tl.constexpr):
    """F at the signed argument: see relaxation.py."""
    if DISTRIBUTION == "cauchy":
        part = _atan_over_pi(tl.minimum(u, 1.0) / tl.maximum(u, 1.0))
        tail = tl.where(u > 1.0, part, 0.5 - part)
    elif DISTRIBUTION == "gaussian":
        tail = 0.5 - 0.5 * tl.erf(u * 0.70710678)
    elif DISTRIBUTION == "reciprocal":
        tail = 1.0 / (2.0 + u)
    elif DISTRIBUTION == "optimal":
        tail = tl.where(u > 0.25, 0.0625 / tl.maximum(u, 0.25), 0.5 - u)
    else:
        tail = 1.0 / (1.0 + tl.exp(u))
    return tl.where(gap < 0.0, tail, 1.0 - tail)


@triton.jit
def _density(u, DISTRIBUTION: tl.constexpr):
    if DISTRIBUTION == "cauchy":
        density = 0.31830988 / (1.0 + u * u)
    elif DISTRIBUTION == "gaussian":
        density = 0.39894228 * tl.exp(-0.5 * u * u)
    elif DISTRIBUTION == "reciprocal":
        density = 1.0 / ((2.0 + u) * (2.0 + u))
    elif DISTRIBUTION == "optimal":
        density = tl.where(u > 0.25, 0.0625 / (tl.maximum(u, 0.25) * tl.maximum(u, 0.25)), 1.0)
    else:
        density = 1.0 / ((1.0 + tl.exp(u)) * (1.0 + tl.exp(-u)))
    return density


@triton.jit
def _comparators(n, K: tl.constexpr, BLOCK: tl.constexpr, BIT: tl.constexpr, SHIFT: tl.constexpr, DROPPED):
    """Of the K comparators of a layer: whether they exist, and +1 where the smaller value goes to the first wire."""
    number = tl.arange(0, K)
    wire = ((number >> BIT) << (BIT + 1)) + (number & ((1 << BIT) - 1)) + SHIFT
    exists = (wire >= DROPPED) & (wire + (1 << BIT) < DROPPED + n)
    return exists[:, None], tl.where((wire >> (BLOCK + 1)) & 1, -1.0, 1.0)[:, None]


@triton.jit
def _values_layer(v, DISTRIBUTION: tl.constexpr, given, first, n, layer, BLOCK: tl.constexpr, BIT: tl.constexpr, SHIFT: tl.constexpr):
    """given: shares of the rows, mask of the rows, poison, dropped wires, steepness, lambda, name of F."""
    shares, inside, poison, dropped, steepness, art_lambda = given
    K: tl.constexpr = v.shape[0] // 2
    a, b = halves(v, BIT)
    exists, direction = _comparators(n, K, BLOCK, BIT, SHIFT, dropped)
    gap = direction * (b - a)
    u, _ = _argument(gap, steepness, art_lambda, DISTRIBUTION)
    keep = tl.where(exists, _keep(gap, u, DISTRIBUTION), 1.0) + poison
    tl.store(shares + layer * K + tl.arange(0, K)[:, None], keep, mask=inside)
    a, b = mix(a, b, keep)
    return whole(a, b, BIT)


@triton.jit
def _vectors_layer(x, COMPARATORS: tl.constexpr, given, first, n, layer, BLOCK: tl.constexpr, BIT: tl.constexpr, SHIFT: tl.constexpr):
    """given: shares of the row, comparators of a layer."""
    shares = given[0]
    K: tl.constexpr = x.shape[0] // 2
    at = shares + layer * COMPARATORS + first // (2 * K) * K + tl.arange(0, K)
    a, b = halves(x, BIT)
    a, b = mix(a, b, tl.load(at)[:, None])
    return whole(a, b, BIT)


@triton.jit
def _differences_layer(x, COMPARATORS: tl.constexpr, given, first, n, layer, BLOCK: tl.constexpr, BIT: tl.constexpr, SHIFT: tl.constexpr):
    """_vectors_layer that also writes down by how much partners differ before the layer."""
    shares, differences = given
    K: tl.constexpr = x.shape[0] // 2
    V: tl.constexpr = x.shape[1]
    at = shares + layer * COMPARATORS + first // (2 * K) * K + tl.arange(0, K)
    a, b = halves(x, BIT)
    place = (tl.arange(0, K) * V)[:, None] + tl.arange(0, V)[None, :]
    tl.store(differences + layer * COMPARATORS * V + place, a - b)
    a, b = mix(a, b, tl.load(at)[:, None])
    return whole(a, b, BIT)


@triton.jit
def _gradients_layer(g, COMPARATORS: tl.constexpr, given, first, n, layer, BLOCK: tl.constexpr, BIT: tl.constexpr, SHIFT: tl.constexpr):
    shares, differences, grad_shares = given
    K: tl.constexpr = g.shape[0] // 2
    V: tl.constexpr = g.shape[1]
    slot = layer * COMPARATORS + first // (2 * K) * K + tl.arange(0, K)
    a, b = halves(g, BIT)
    place = (tl.arange(0, K) * V)[:, None] + tl.arange(0, V)[None, :]
    difference = tl.load(differences + layer * COMPARATORS * V + place)
    gain = tl.sum((a - b) * difference, 1)
    tl.store(grad_shares + slot, tl.load(grad_shares + slot) + gain)
    a, b = mix(a, b, tl.load(shares + slot)[:, None])
    return whole(a, b, BIT)


@triton.jit
def values_forward(values, ordered, shares, rows, n, slots, steepness, art_lambda, DISTRIBUTION: tl.constexpr,
    BITS: tl.constexpr, ROWS: tl.constexpr, BITONIC: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dropped = (1 << BITS) - n if BITONIC else 0
    wire = tl.arange(0, 1 << BITS) - dropped
    inside = ((wire >= 0) & (wire < n))[:, None] & (row < rows)[None, :]
    at = row.to(tl.int64)[None, :] * n + wire[:, None]
    v = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
    poison = tl.sum(v * 0.0, 0)[None, :]
    given = (shares + row.to(tl.int64)[None, :] * slots, (row < rows)[None, :], poison, dropped, steepness, art_lambda)
    v = onward(v + poison, _values_layer, DISTRIBUTION, given, 0, n, BITS, BITS, BITONIC)
    tl.store(ordered + at, v, mask=inside)


@triton.jit
def permutation_forward(shares, permutation, n, slots, tiles, BITS: tl.constexpr, START: tl.constexpr, LANES: tl.constexpr, BITONIC: tl.constexpr):
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * LANES
    dropped = (1 << BITS) - n if BITONIC else 0
    start = tl.arange(0, 1 << START) + first // (1 << START) * (1 << START)
    x = tl.where(start[:, None] == first + tl.arange(0, LANES)[None, :], 1.0, 0.0)
    x = onward(x, _vectors_layer, 1 << (BITS - 1), (shares + row * slots,), first, n, BITS, START, BITONIC)
    wire = tl.arange(0, 1 << BITS) - dropped
    original = first + tl.arange(0, LANES) - dropped
    inside = ((wire >= 0) & (wire < n))[:, None] & ((original >= 0) & (original < n))[None, :]
    tl.store(permutation + row * n * n + wire[:, None] * n + original[None, :], x, mask=inside)


@triton.jit
def permutation_backward(shares, grad_permutation, grad_shares, scratch, units, groups, n, slots, tiles, BITS: tl.constexpr, START: tl.constexpr, LANES: tl.constexpr, BITONIC: tl.constexpr):
    K: tl.constexpr = 1 << (BITS - 1)
    dropped = (1 << BITS) - n if BITONIC else 0
    wire = tl.arange(0, 1 << BITS) - dropped
    differences = scratch + tl.program_id(0).to(tl.int64) * slots * LANES
    for unit in range(tl.program_id(0), units, tl.num_programs(0)):
        row = (unit // groups).to(tl.int64)
        row_shares = shares + row * slots
        own = grad_shares + unit.to(tl.int64) * slots
        for tile in range(unit % groups, tiles, groups):
            first = tile * LANES
            start = tl.arange(0, 1 << START) + first // (1 << START) * (1 << START)
            x = tl.where(start[:, None] == first + tl.arange(0, LANES)[None, :], 1.0, 0.0)
            tl.debug_barrier()
            onward(x, _differences_layer, K, (row_shares, differences), first, n, BITS, START, BITONIC)
            tl.debug_barrier()
            original = first + tl.arange(0, LANES) - dropped
            inside = ((wire >= 0) & (wire < n))[:, None] & ((original >= 0) & (original < n))[None, :]
            g = tl.load(grad_permutation + row * n * n + wire[:, None] * n + original[None, :], mask=inside, other=0.0)
            backward(g, _gradients_layer, K, (row_shares, differences, own), first, n, BITS, START, BITONIC)
