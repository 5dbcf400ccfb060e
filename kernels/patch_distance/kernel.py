"""Launching the Triton kernels of patch_distance: one launch forward, one a gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import triton
from torch import Tensor

from pineco.kernels.launches import Launch
from pineco.kernels.patch_distance.cosine import cosine_backward, cosine_forward
from pineco.kernels.patch_distance.euclidean import euclidean_backward, euclidean_forward

_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_AFFINE = {"cosine": (1.0, -1.0), "cosine_similarity": (0.0, 1.0)}  # value = offset + sign · cosine
_KERNELS = {"cosine": (cosine_forward, cosine_backward), "euclidean": (euclidean_forward, euclidean_backward)}
_VECTORS = ("query", "reference", "own", "other")  # whose strides the kernels take
_ALIGNED = ("features", *(f"{x}_{axis}" for x in _VECTORS for axis in ("batch", "row")))
_PROGRAMS = 512  # a gradient with fewer programs splits its sum over rows: some programs for every multiprocessor
_CHUNK = 256  # rows of the smallest split; a multiple of every BLOCK_M


def forward(queries: Tensor, references: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, D) and (B, M, D), not empty, to values (B, N, M), and for the cosines 2^20 / length, (B, N) and (B, M).

    All are float32.
    """
    b, n, features = queries.shape
    m = references.shape[1]
    values = queries.new_empty(b, n, m, dtype=torch.float32)
    strides = (*queries.stride(), *references.stride())
    options = _options("forward", metric, queries.dtype)
    grid = (b * triton.cdiv(n, options["BLOCK_N"]) * triton.cdiv(m, options["BLOCK_M"]),)
    if metric == "euclidean":
        euclidean_forward[grid](queries, references, values, n, m, features, *strides, **options)
        return values, values.new_empty(b, 0), values.new_empty(b, 0)
    inverses = values.new_empty(b, n), values.new_empty(b, m)
    sizes = (n, m, features, *_AFFINE[metric])
    cosine_forward[grid](queries, references, values, *inverses, *sizes, *strides, **options)
    return values, *inverses


def gradient(
    gradients: Tensor,
    values: Tensor,
    own: Tensor,
    other: Tensor,
    inverse_own: Tensor,
    inverse_other: Tensor,
    metric: str,
) -> Tensor:
    """Gradient to `own` (B, N, D), of its dtype, from gradients and values (B, N, M) and `other` (B, M, D), none empty.

    The references' gradient is the same function with the roles exchanged and (B, N, M) transposed.
    """
    b, n, features = own.shape
    m = other.shape[1]
    options = _options("backward", metric, own.dtype)
    programs = b * triton.cdiv(n, options["BLOCK_N"]) * triton.cdiv(features, options["BLOCK_D"])
    chunk = _chunk(m, programs)
    parts = triton.cdiv(m, chunk)
    result = own.new_empty(parts, b, n, features, dtype=torch.float32 if parts > 1 else own.dtype)
    tensors = (gradients, values, own, other)
    strides = (*(s for x in tensors for s in x.stride()), result.stride(0))
    if metric == "euclidean":
        euclidean_backward[programs, parts](*tensors, result, n, m, features, chunk, *strides, **options)
    else:
        sizes = (n, m, features, chunk, *_AFFINE[metric])
        cosine_backward[programs, parts](*tensors, inverse_own, inverse_other, result, *sizes, *strides, **options)
    return result[0] if parts == 1 else result.sum(0).to(own.dtype)


def _chunk(m: int, programs: int) -> int:
    """Rows that one program sums over: all m, unless there are too few programs to fill a GPU.

    A function of shapes only, and the parts are added in a fixed order: the same input gives the same bits.
    """
    parts = triton.cdiv(_PROGRAMS, programs)
    return _CHUNK * triton.cdiv(m, _CHUNK * parts)


def _options(direction: str, metric: str, dtype: torch.dtype) -> dict[str, Any]:
    """Block sizes, warps and stages of a launch: what the ahead-of-time gate passes without spills.

    float32 products are IEEE, as torch's are: split in three for the tensor cores, their sums would be truncated there
    (Ootomo and Yokota, arXiv 2203.03341). That is far below what the gradients of half precision vectors are rounded
    to, so those are split; one tf32 product would cut the gradients to 10 bits.
    """
    options: dict[str, Any] = {"num_warps": 8, "num_stages": 3}
    if metric == "euclidean":
        n, m, d = (32, 32, 8) if direction == "forward" else (16, 16, 32)
    elif direction == "backward":
        n, m, d = 64, 16, 64
        options["PRECISION"] = "ieee" if dtype == torch.float32 else "tf32x3"
    else:
        n, m, d = 64, 64, 16 if dtype == torch.float32 else 32
        options["PRECISION"] = "ieee"  # products of half precision vectors are exact in the tensor cores as they are
    return options | {"BLOCK_N": n, "BLOCK_M": m, "BLOCK_D": d}


def launches() -> list[Launch]:
    """The kinds of launch: features contiguous, with aligned rows or not; patches contiguous (maps of features); parts.

    The euclidean kernels are the same for all strides. A gradient in parts is float32, whatever the vectors are.
    """
    cosine = product(("cosine",), ("forward", "queries", "references"), _TYPES, ("aligned", "rows", "maps"))
    euclidean = product(("euclidean",), ("forward", "queries"), _TYPES, ("any",))
    parts = product(("cosine", "euclidean"), ("references",), (torch.float16, torch.bfloat16), ("parts",))
    return [_launch(*kind) for kind in (*cosine, *euclidean, *parts)]


def _launch(metric: str, direction: str, dtype: torch.dtype, layout: str) -> Launch:
    kernels = _KERNELS[metric]
    kernel = kernels[0] if direction == "forward" else kernels[1]
    options = _options("forward" if direction == "forward" else "backward", metric, dtype)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    names = kernel.arg_names
    ones = _ones(direction, layout) if metric == "cosine" else []
    constants = options | {name: 1 for name in ones if name in names}
    pointer = dict.fromkeys(("queries", "references", "own", "other", "result"), f"*{_TYPES[dtype]}")
    if layout == "parts":
        pointer["result"] = "*fp32"
    return Launch(
        name=f"{metric}-{direction}-{_TYPES[dtype]}-{layout}",
        kernel=kernel,
        signature={name: pointer.get(name, _argument(name)) for name in names if name not in constants},
        constexprs=constants,
        num_warps=warps,
        num_stages=stages,
        aligned=_ALIGNED if metric == "cosine" and layout in ("aligned", "parts") else (),
    )


def _ones(direction: str, layout: str) -> list[str]:
    """Strides that are 1, which Triton compiles in."""
    contiguous = "column" if direction == "queries" else "row"
    vectors = [f"{tensor}_{'row' if layout == 'maps' else 'feature'}" for tensor in _VECTORS]
    return [*vectors, f"gradient_{contiguous}", f"value_{contiguous}"]


def _argument(name: str) -> str:
    if name in ("offset", "sign"):
        return "fp32"
    if name in ("gradients", "values", "inverse_own", "inverse_other", "inverse_queries", "inverse_references", "out"):
        return "*fp32"
    return "i32"
