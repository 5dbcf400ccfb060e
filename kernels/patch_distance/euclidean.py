"""Triton kernels of the euclidean metric: sums of squared differences, so that near neighbours keep their distances."""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (what a kernel's arguments are, Triton sees at the launch)

from __future__ import annotations

import triton
import triton.language as tl

from pineco.kernels.patch_distance.cosine import tile_of

_HUGE = tl.constexpr(2.0**100)  # a larger sum of squares is taken again, of differences times _DOWN
_DOWN = tl.constexpr(2.0**-80)
_TINY = tl.constexpr(2.0**-100)  # a smaller one, of differences times _UP
_UP = tl.constexpr(2.0**80)
_SMALLEST = tl.constexpr(2.0**-126)  # fp32's smallest normal number: below it 1 / distance may be infinite

# One specialisation for all sizes and strides: these kernels are bound by arithmetic, not by the width of their loads.
_STRIDES = [
    f"{tensor}_{axis}" for tensor in ("query", "reference", "own", "other") for axis in ("batch", "row", "feature")
]
_FORWARD_INTEGERS = ["n", "m", "features", *_STRIDES[:6]]
_BACKWARD_INTEGERS = [
    *("n", "m", "features", "chunk", "result_part"),
    *(f"{tensor}_{axis}" for tensor in ("gradient", "value") for axis in ("batch", "row", "column")),
    *_STRIDES[6:],
]


@triton.jit
def _sum_of_squares(
    queries, references, n, m, features, query_row, query_feature, reference_row, reference_feature, scale,
    SCALED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """(BLOCK_N, BLOCK_M) of sum ((x - y) · scale)²; threads exchange their parts only at the end."""
    rows, columns = tl.arange(0, BLOCK_N)[:, None, None], tl.arange(0, BLOCK_M)[None, :, None]
    squares = tl.zeros((BLOCK_N, BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, features, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)[None, None, :]
        inside = column < features
        q = tl.load(
            queries + rows * query_row + column * query_feature, mask=(rows < n) & inside, other=0.0
        ).to(tl.float32)  # fmt: skip
        r = tl.load(
            references + columns * reference_row + column * reference_feature, mask=(columns < m) & inside, other=0.0
        ).to(tl.float32)  # fmt: skip
        difference = q - r
        if SCALED:
            difference *= scale[:, :, None]
        squares += difference * difference
    return tl.sum(squares, 2)


@triton.jit(do_not_specialize=_FORWARD_INTEGERS)
def euclidean_forward(
    queries, references, out, n, m, features,
    query_batch, query_row, query_feature, reference_batch, reference_row, reference_feature,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out (B, N, M) = |x - y|. Pairs whose sum of squares leaves fp32's range are swept again, scaled."""
    batch, tile_n, tile_m = tile_of(tl.program_id(0), n, m, BLOCK_N, BLOCK_M)
    first_n, first_m = tile_n * BLOCK_N, tile_m * BLOCK_M
    queries += batch * query_batch + first_n.to(tl.int64) * query_row
    references += batch * reference_batch + first_m.to(tl.int64) * reference_row
    rows, columns = tl.arange(0, BLOCK_N)[:, None], tl.arange(0, BLOCK_M)[None, :]
    inside = (rows < n - first_n) & (columns < m - first_m)

    ones = tl.full((BLOCK_N, BLOCK_M), 1.0, tl.float32)
    squares = _sum_of_squares(
        queries, references, n - first_n, m - first_m, features, query_row, query_feature, reference_row,
        reference_feature, ones, False, BLOCK_N, BLOCK_M, BLOCK_D,
    )  # fmt: skip
    scale = tl.where(squares > _HUGE, _DOWN, tl.where(squares < _TINY, _UP, 1.0))
    if tl.max(tl.max(tl.where(inside & (scale != 1.0), 1, 0), 1), 0) > 0:
        squares = _sum_of_squares(
            queries, references, n - first_n, m - first_m, features, query_row, query_feature, reference_row,
            reference_feature, scale, True, BLOCK_N, BLOCK_M, BLOCK_D,
        )  # fmt: skip
    distances = tl.sqrt_rn(squares) / scale
    out += (batch * n + first_n) * m + first_m
    tl.store(out + rows * m + columns, distances, mask=inside)


@triton.jit(do_not_specialize=_BACKWARD_INTEGERS)
def euclidean_backward(
    gradients, values, own, other, result, n, m, features, chunk,
    gradient_batch, gradient_row, gradient_column, value_batch, value_row, value_column,
    own_batch, own_row, own_feature, other_batch, other_row, other_feature, result_part,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """result (parts, B, N, D) = sum over m of gradient · (x - y) / |x - y|, nothing where the distance is 0."""
    batch, tile_n, tile_d = tile_of(tl.program_id(0), n, features, BLOCK_N, BLOCK_D)
    first_n, first_m = tile_n * BLOCK_N, tl.program_id(1) * chunk
    gradients += batch * gradient_batch + first_n.to(tl.int64) * gradient_row
    values += batch * value_batch + first_n.to(tl.int64) * value_row
    own += batch * own_batch + first_n.to(tl.int64) * own_row
    other += batch * other_batch
    rows, inner = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)
    column = tile_d * BLOCK_D + tl.arange(0, BLOCK_D)
    row_inside, column_inside = rows < n - first_n, column < features

    x = tl.load(
        own + rows[:, None, None] * own_row + column[None, None, :] * own_feature,
        mask=row_inside[:, None, None] & column_inside[None, None, :], other=0.0,
    ).to(tl.float32)  # fmt: skip
    pulled = tl.zeros((BLOCK_N, BLOCK_M, BLOCK_D), tl.float32)
    for start in range(first_m, tl.minimum(first_m + chunk, m), BLOCK_M):
        at = tl.cast(start, tl.int64)
        inner_inside = inner < m - start
        mask = row_inside[:, None] & inner_inside[None, :]
        gradient = tl.load(
            gradients + at * gradient_column + rows[:, None] * gradient_row + inner[None, :] * gradient_column,
            mask=mask, other=0.0,
        )  # fmt: skip
        value = tl.load(
            values + at * value_column + rows[:, None] * value_row + inner[None, :] * value_column,
            mask=mask, other=0.0,
        )  # fmt: skip
        weight = gradient / tl.where(value < _SMALLEST, 1.0, value)  # x - y is 0 there, or next to it
        y = tl.load(
            other + at * other_row + inner[None, :, None] * other_row + column[None, None, :] * other_feature,
            mask=inner_inside[None, :, None] & column_inside[None, None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        pulled += weight[:, :, None] * (x - y)
    result += tl.program_id(1).to(tl.int64) * result_part + (batch * n + first_n) * features
    tl.store(
        result + rows[:, None] * features + column[None, :], tl.sum(pulled, 1).to(result.dtype.element_ty),
        mask=row_inside[:, None] & column_inside[None, :],
    )  # fmt: skip
