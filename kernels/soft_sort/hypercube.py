"""Parts of the kernels: wires as an axis that is split by one bit of the wire number, and the walk over the layers.

A state is (wires, vectors), wires a power of two. Splitting, joining and rolling by constants only rename registers as
long as one thread holds all wires of its vectors, which is how Triton lays out a tile of 32 vectors a warp.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def halves(x, BIT: tl.constexpr):
    """(W, V) to the wires whose bit is 0 and those whose bit is 1, (W/2, V) each: partners of a layer, in order."""
    W: tl.constexpr = x.shape[0]
    V: tl.constexpr = x.shape[1]
    pairs = tl.permute(tl.reshape(x, (W >> (BIT + 1), 2, 1 << BIT, V)), (0, 2, 3, 1))
    a, b = tl.split(pairs)
    return tl.reshape(a, (W // 2, V)), tl.reshape(b, (W // 2, V))


@triton.jit
def whole(a, b, BIT: tl.constexpr):
    """The inverse of `halves`."""
    K: tl.constexpr = a.shape[0]
    V: tl.constexpr = a.shape[1]
    shape: tl.constexpr = (K >> BIT, 1 << BIT, V)
    pairs = tl.permute(tl.join(tl.reshape(a, shape), tl.reshape(b, shape)), (0, 3, 1, 2))
    return tl.reshape(pairs, (2 * K, V))


@triton.jit
def roll(x):
    """Wire w + 1 to place w, wire 0 to the last place: even wires go where odd ones are, odd ones one pair down."""
    if x.shape[0] == 1:
        return x
    else:
        even, odd = halves(x, 0)
        return whole(odd, roll(even), 0)


@triton.jit
def roll_back(x):
    """The inverse of `roll`."""
    if x.shape[0] == 1:
        return x
    else:
        even, odd = halves(x, 0)
        return whole(roll_back(odd), even, 0)


@triton.jit
def grow(x, upper, BIT: tl.constexpr):
    """(W, V) to (2W, V): the state of one half of the wires, zeros in the other. upper: 1 where it is the upper half."""
    return whole(tl.where(upper == 0, x, 0.0), tl.where(upper == 0, 0.0, x), BIT)


@triton.jit
def shrink(x, upper, BIT: tl.constexpr):
    """The transpose of `grow`: (2W, V) to the half (W, V) that the state came from."""
    low, high = halves(x, BIT)
    return tl.where(upper == 0, low, high)


@triton.jit
def mix(a, b, keep):
    """One comparator: keep · a + (1 - keep) · b and the other way round, in four fused multiply-adds.

    b - keep · b is rounded once and never negative, so tiny entries keep their relative precision.
    """
    return tl.fma(keep, a, tl.fma(-keep, b, b)), tl.fma(keep, b, tl.fma(-keep, a, a))


@triton.jit
def onward(
    x, LAYER: tl.constexpr, MODE: tl.constexpr, tensors, first, n, BITS: tl.constexpr, START: tl.constexpr, BITONIC: tl.constexpr
):  # fmt: skip
    """The state through all layers. LAYER(x, MODE, tensors, first, n, layer, BLOCK, BIT, SHIFT) does one of them.

    In a bitonic network the first 2^b wires meet no others before block b. So a state of 2^START wires, those from
    `first`, is enough until then, and doubles with every later block.
    """
    if BITONIC:
        for block in tl.static_range(BITS):
            if block >= START:
                x = grow(x, (first >> block) & 1, block)
            for step in tl.static_range(block + 1):
                x = LAYER(x, MODE, tensors, first, n, block * (block + 1) // 2 + step, block, block - step, 0)
    else:
        for pair in range(n // 2):
            x = LAYER(x, MODE, tensors, first, n, 2 * pair, BITS, 0, 0)
            x = roll_back(LAYER(roll(x), MODE, tensors, first, n, 2 * pair + 1, BITS, 0, 1))
        if n % 2 == 1:
            x = LAYER(x, MODE, tensors, first, n, n - 1, BITS, 0, 0)
    return x


@triton.jit
def backward(
    x, LAYER: tl.constexpr, MODE: tl.constexpr, tensors, first, n, BITS: tl.constexpr, START: tl.constexpr, BITONIC: tl.constexpr
):  # fmt: skip
    """The same walk from the last layer to the first."""
    if BITONIC:
        for number in tl.static_range(BITS):
            for step in tl.static_range(BITS - number):
                x = LAYER(
                    x, MODE, tensors, first, n, (BITS - number) * (BITS - number + 1) // 2 - 1 - step, BITS - number - 1, step, 0
                )  # fmt: skip
            if BITS - number - 1 >= START:
                x = shrink(x, (first >> (BITS - number - 1)) & 1, BITS - number - 1)
    else:
        if n % 2 == 1:
            x = LAYER(x, MODE, tensors, first, n, n - 1, BITS, 0, 0)
        for number in range(n // 2):
            pair = n // 2 - 1 - number
            x = roll_back(LAYER(roll(x), MODE, tensors, first, n, 2 * pair + 1, BITS, 0, 1))
            x = LAYER(x, MODE, tensors, first, n, 2 * pair, BITS, 0, 0)
    return x
