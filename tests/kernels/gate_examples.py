"""Kernels for the tests of the ahead-of-time gate: one that passes, one that spills, one that needs too much memory."""

from __future__ import annotations

import triton
import triton.language as tl

from pineco.kernels.launches import Launch


@triton.jit
def _double(values: tl.tensor, count: tl.tensor, WIDTH: tl.constexpr) -> None:
    at = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    tl.store(values + at, 2 * tl.load(values + at, mask=at < count), mask=at < count)


@triton.jit
def _keep_all(values: tl.tensor, WIDTH: tl.constexpr) -> None:
    """Every value lives until the sum of all is known."""
    at = tl.arange(0, WIDTH)
    x = tl.load(values + at)
    tl.store(values + at, x * tl.sum(x, 0))


@triton.jit
def _multiply(a: tl.tensor, b: tl.tensor, result: tl.tensor, steps: tl.tensor, SIDE: tl.constexpr) -> None:
    rows, columns = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    total = tl.zeros((SIDE, SIDE), tl.float32)
    for step in range(steps):
        at = step * SIDE * SIDE + rows * SIDE + columns
        total = tl.dot(tl.load(a + at), tl.load(b + at), total)
    tl.store(result + rows * SIDE + columns, total)


def launches() -> list[Launch]:
    bf16 = {"a": "*bf16", "b": "*bf16", "result": "*fp32", "steps": "i32"}
    return [
        Launch("good", _double, {"values": "*fp32", "count": "i32"}, {"WIDTH": 1024}),
        Launch("spilling", _keep_all, {"values": "*fp32"}, {"WIDTH": 16384}, num_warps=1),
        Launch("large", _multiply, bf16, {"SIDE": 128}, num_warps=8, num_stages=5),
    ]
