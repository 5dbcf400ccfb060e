"""Triton kernels of the cosine metrics.

The sums of squares come from the same pass over the features as the dot products. Rows too long for fp32's squares are
swept a second time, scaled down. Lengths travel to the backward pass as 2^20 / |x|, a normal fp32 number for every |x|
from SHORTEST to the longest vector there is; 0 stands for a vector that counts as zero. A program's tile starts at a
64-bit offset; offsets within it fit 32 bits.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (what a kernel's arguments are, Triton sees at the launch)

from __future__ import annotations

import triton
import triton.language as tl

from pineco.kernels.patch_distance.reference import SHORTEST

_SHORT = tl.constexpr(SHORTEST * SHORTEST)
_HUGE = tl.constexpr(2.0**100)  # a larger sum of squares is taken again, of the row times _DOWN
_DOWN = tl.constexpr(2.0**-80)
_SHIFT = tl.constexpr(2.0**-20)


@triton.jit
def tile_of(program, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """(batch element, row tile, column tile) of a program of a one-dimensional grid, columns fastest."""
    tiles_c = tl.cdiv(columns, BLOCK_C)
    tiles_r = tl.cdiv(rows, BLOCK_R)
    tile = program // tiles_c
    return (tile // tiles_r).to(tl.int64), tile % tiles_r, program % tiles_c


@triton.jit
def _sweep(
    queries, references, rows, columns, n, m, features, query_row, query_feature, reference_row, reference_feature,
    scale_q, scale_r, SCALED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Dot products and both sums of squares of one tile, in one pass over the features."""
    dots = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    squares_q = tl.zeros((BLOCK_N,), tl.float32)
    squares_r = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, features, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        inside = (column < features)[None, :]
        q = tl.load(
            queries + rows[:, None] * query_row + column[None, :] * query_feature,
            mask=(rows < n)[:, None] & inside, other=0.0,
        )  # fmt: skip
        r = tl.load(
            references + columns[:, None] * reference_row + column[None, :] * reference_feature,
            mask=(columns < m)[:, None] & inside, other=0.0,
        )  # fmt: skip
        if SCALED:
            q = (q.to(tl.float32) * scale_q[:, None]).to(q.dtype)
            r = (r.to(tl.float32) * scale_r[:, None]).to(r.dtype)
        dots = tl.dot(q, tl.trans(r), dots, input_precision=PRECISION)
        q32, r32 = q.to(tl.float32), r.to(tl.float32)
        squares_q += tl.sum(q32 * q32, 1)
        squares_r += tl.sum(r32 * r32, 1)
    return dots, squares_q, squares_r


@triton.jit
def _inverse(squares):
    """1 / length, and 0 for a vector that counts as zero. Not a number stays so."""
    return tl.where(squares < _SHORT, 0.0, tl.div_rn(1.0, tl.sqrt_rn(tl.where(squares < _SHORT, 1.0, squares))))


@triton.jit(do_not_specialize=["n", "m"])
def cosine_forward(
    queries, references, out, inverse_queries, inverse_references, n, m, features, offset, sign,
    query_batch, query_row, query_feature, reference_batch, reference_row, reference_feature,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out (B, N, M) = offset + sign · cosine; inverse_* (B, N) and (B, M) = 2^20 / length."""
    batch, tile_n, tile_m = tile_of(tl.program_id(0), n, m, BLOCK_N, BLOCK_M)
    first_n, first_m = tile_n * BLOCK_N, tile_m * BLOCK_M
    queries += batch * query_batch + first_n.to(tl.int64) * query_row
    references += batch * reference_batch + first_m.to(tl.int64) * reference_row
    out += (batch * n + first_n) * m + first_m
    n_left, m_left = n - first_n, m - first_m
    rows, columns = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)

    scale_q, scale_r = tl.full((BLOCK_N,), 1.0, tl.float32), tl.full((BLOCK_M,), 1.0, tl.float32)
    dots, squares_q, squares_r = _sweep(
        queries, references, rows, columns, n_left, m_left, features, query_row, query_feature, reference_row,
        reference_feature, scale_q, scale_r, False, BLOCK_N, BLOCK_M, BLOCK_D, PRECISION,
    )  # fmt: skip
    largest = tl.maximum(tl.max(squares_q, 0), tl.max(squares_r, 0))
    if largest > _HUGE:
        scale_q, scale_r = tl.where(squares_q > _HUGE, _DOWN, 1.0), tl.where(squares_r > _HUGE, _DOWN, 1.0)
        dots, squares_q, squares_r = _sweep(
            queries, references, rows, columns, n_left, m_left, features, query_row, query_feature, reference_row,
            reference_feature, scale_q, scale_r, True, BLOCK_N, BLOCK_M, BLOCK_D, PRECISION,
        )  # fmt: skip

    inverse_q, inverse_r = _inverse(squares_q), _inverse(squares_r)
    cosines = dots * inverse_q[:, None] * inverse_r[None, :]
    cosines = tl.where(cosines > 1.0, 1.0, tl.where(cosines < -1.0, -1.0, cosines))  # not a number stays so
    inside = (rows < n_left)[:, None] & (columns < m_left)[None, :]
    tl.store(out + rows[:, None] * m + columns[None, :], offset + sign * cosines, mask=inside)
    if tile_m == 0:
        tl.store(inverse_queries + batch * n + first_n + rows, inverse_q * scale_q * (1.0 / _SHIFT), mask=rows < n_left)
    if tile_n == 0:
        tl.store(
            inverse_references + batch * m + first_m + columns, inverse_r * scale_r * (1.0 / _SHIFT),
            mask=columns < m_left,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["n", "m", "chunk", "result_part", "gradient_batch", "value_batch"],
    do_not_specialize_on_alignment=["gradient_row", "gradient_column", "value_row", "value_column"],
)
def cosine_backward(
    gradients, values, own, other, inverse_own, inverse_other, result, n, m, features, chunk, offset, sign,
    gradient_batch, gradient_row, gradient_column, value_batch, value_row, value_column,
    own_batch, own_row, own_feature, other_batch, other_row, other_feature, result_part,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """result (parts, B, N, D): gradient to `own` (B, N, D), each part from `chunk` rows of `other` (B, M, D).

    d cos / dx = (ŷ - cos · x̂) / |x|, so one product of gradients and unit vectors, and one weighted sum of cosines.
    """
    batch, tile_n, tile_d = tile_of(tl.program_id(0), n, features, BLOCK_N, BLOCK_D)
    first_n, first_m = tile_n * BLOCK_N, tl.program_id(1) * chunk
    gradients += batch * gradient_batch + first_n.to(tl.int64) * gradient_row
    values += batch * value_batch + first_n.to(tl.int64) * value_row
    own += batch * own_batch + first_n.to(tl.int64) * own_row
    other += batch * other_batch
    rows, inner = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)
    column = tile_d * BLOCK_D + tl.arange(0, BLOCK_D)
    row_inside, column_inside = (rows < n - first_n)[:, None], (column < features)[None, :]

    pulled = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    along = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(first_m, tl.minimum(first_m + chunk, m), BLOCK_M):
        at = tl.cast(start, tl.int64)
        inner_inside = inner < m - start
        mask = row_inside & inner_inside[None, :]
        gradient = sign * tl.load(
            gradients + at * gradient_column + rows[:, None] * gradient_row + inner[None, :] * gradient_column,
            mask=mask, other=0.0,
        )  # fmt: skip
        value = tl.load(
            values + at * value_column + rows[:, None] * value_row + inner[None, :] * value_column,
            mask=mask, other=0.0,
        )  # fmt: skip
        along += tl.sum(gradient * sign * (value - offset), 1)
        vectors = tl.load(
            other + at * other_row + inner[:, None] * other_row + column[None, :] * other_feature,
            mask=inner_inside[:, None] & column_inside, other=0.0,
        ).to(tl.float32)  # fmt: skip
        inverse = tl.load(inverse_other + batch * m + at + inner, mask=inner_inside, other=0.0)
        pulled = tl.dot(gradient, vectors * _SHIFT * inverse[:, None], pulled, input_precision=PRECISION)

    mask = row_inside & column_inside
    x = tl.load(own + rows[:, None] * own_row + column[None, :] * own_feature, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_own + batch * n + first_n + rows, mask=rows < n - first_n, other=0.0)[:, None]
    total = (pulled - x * _SHIFT * inverse * along[:, None]) * inverse * _SHIFT
    result += tl.program_id(1).to(tl.int64) * result_part + (batch * n + first_n) * features
    tl.store(result + rows[:, None] * features + column[None, :], total.to(result.dtype.element_ty), mask=mask)
