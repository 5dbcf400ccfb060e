"""Parts of the kernels: which wires a layer compares, and what share of itself a wire keeps."""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: RET505 - Triton goes on after a return in a branch that it knows to be taken

from __future__ import annotations

import triton
import triton.language as tl

_ATAN = tl.constexpr(
    (
        *(0.318309881, -0.106102468, 0.0636384838, -0.0452116025, 0.0338711369),
        *(-0.023886894, 0.013589112, -0.00511479071, 0.000907144843),
    )
)  # atan(w) / (pi w) in powers of w², for 0 <= w <= 1: our fit, relative error 2e-7 when evaluated in fp32
_GAUSS = tl.constexpr(
    (
        *(0.199470639, 0.199443638, 0.150561228, 0.0385297276),
        *(0.00601596804, -0.341486752, 0.374338895, -0.127813414),
    )
)  # (1 - F(u)) exp(u²/2) / t in powers of t = 1 / (1 + u/2), for u >= 1: our fit, relative error 3e-7 in fp32
_SMALLEST_GAP = tl.constexpr(1e-10)  # as in relaxation.py


@triton.jit
def comparators(layer, n, bits, bitonic, NUMBER: tl.constexpr):
    """Wires a < b of the comparators of a layer, which of them exist, and +1 where a gets the smaller value, else -1.

    n: wires, 2^bits of them at most. bitonic: 1, or 0 for odd-even. NUMBER: 2^(bits - 1), or a larger power of two.
    Wires are numbered from 0 to n - 1, as the values are; a comparator that does not exist leaves that range.
    """
    number = tl.arange(0, NUMBER)
    block, bit = 30, 0  # no wire has bit 31: all comparators of an odd-even layer point the same way
    wire = 2 * number + layer % 2
    dropped = 0
    if bitonic == 1:
        block = 0  # layers come in blocks of 1, 2, 3, ...; the first layer of block b is number b (b + 1) / 2
        for later in tl.static_range(1, 10):
            if layer >= later * (later + 1) // 2:
                block += 1
        bit = block - (layer - block * (block + 1) // 2)
        wire = ((number >> bit) << (bit + 1)) + (number & ((1 << bit) - 1))
        dropped = (1 << bits) - n
    direction = tl.where((wire >> (block + 1)) & 1 == 1, -1.0, 1.0)
    a = wire - dropped
    b = a + (1 << bit)
    return a, b, (a >= 0) & (b < n), direction


@triton.jit
def argument(gap, steepness, art_lambda, DISTRIBUTION: tl.constexpr):
    """The size of the argument of F, and its derivative with respect to the size of the gap."""
    size = tl.abs(gap)
    if DISTRIBUTION == "logistic_phi":
        shifted = size + _SMALLEST_GAP
        power = tl.exp2(-art_lambda * tl.log2(shifted))
        return steepness * (size * power), steepness * power * (1.0 - art_lambda * (size / shifted))
    else:
        return steepness * size, tl.full(gap.shape, 1.0, tl.float32) * steepness


@triton.jit
def share(gap, u, DISTRIBUTION: tl.constexpr):
    """F at an argument of size u and the sign of the gap. Without cancellation, where that is the smaller share."""
    if DISTRIBUTION == "cauchy":
        part = tl.minimum(u, 1.0) / tl.maximum(u, 1.0)
        square = part * part
        total = tl.full(u.shape, _ATAN[8], tl.float32)
        for k in tl.static_range(8):
            total = tl.fma(total, square, _ATAN[7 - k])
        tail = tl.where(u > 1.0, part * total, 0.5 - part * total)
    elif DISTRIBUTION == "gaussian":
        t = 1.0 / (1.0 + 0.5 * u)
        total = tl.full(u.shape, _GAUSS[7], tl.float32)
        for k in tl.static_range(7):
            total = tl.fma(total, t, _GAUSS[6 - k])
        tail = tl.where(u < 1.0, 0.5 - 0.5 * tl.erf(u * 0.70710678), tl.exp(-0.5 * u * u) * (t * total))
    elif DISTRIBUTION == "reciprocal":
        tail = 1.0 / (2.0 + u)
    elif DISTRIBUTION == "optimal":
        tail = tl.where(u > 0.25, 0.0625 / tl.maximum(u, 0.25), 0.5 - u)
    else:
        tail = 1.0 / (1.0 + tl.exp(u))
    return tl.where(gap < 0.0, tail, 1.0 - tail)


@triton.jit
def density(u, DISTRIBUTION: tl.constexpr):
    """F'(u) for u >= 0."""
    if DISTRIBUTION == "cauchy":
        return 0.31830988 / (1.0 + u * u)
    elif DISTRIBUTION == "gaussian":
        return 0.39894228 * tl.exp(-0.5 * u * u)
    elif DISTRIBUTION == "reciprocal":
        return 1.0 / ((2.0 + u) * (2.0 + u))
    elif DISTRIBUTION == "optimal":
        return tl.where(u > 0.25, 0.0625 / (tl.maximum(u, 0.25) * tl.maximum(u, 0.25)), 1.0)
    else:
        return 1.0 / ((1.0 + tl.exp(u)) * (1.0 + tl.exp(-u)))


@triton.jit
def mix(a, b, keep):
    """Comparators: keep · a + (1 - keep) · b and the other way round, in four fused multiply-adds.

    b - keep · b is rounded once and is never negative, so tiny entries keep their relative precision.
    """
    away = keep * -1.0  # not -keep, which is 0 - keep: an instruction where a sign is enough
    return tl.fma(keep, a, tl.fma(away, b, b)), tl.fma(keep, b, tl.fma(away, a, a))


@triton.jit
def mix_values(a, b, keep):
    """The same for values, whose distance may be far less than they are: one rounding each, as torch.lerp does."""
    smaller = tl.where(keep < 0.5, keep, 1.0 - keep) * (b - a)
    return tl.where(keep < 0.5, b - smaller, a + smaller), tl.where(keep < 0.5, a + smaller, b - smaller)
