"""patch_distance: the public operator, and its registration with autograd and torch.compile."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from pineco.kernels.backend import Backend, choose_backend
from pineco.kernels.patch_distance import reference
from pineco.kernels.patch_distance.reference import Metric

_METRICS = get_args(Metric)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@torch.library.custom_op("pineco::patch_distance", mutates_args=())
def _forward(queries: Tensor, references: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor]:
    from pineco.kernels.patch_distance import kernel  # not above: Triton is not installed everywhere

    with torch.cuda.device_of(queries):
        return kernel.forward(queries, references, metric)


@_forward.register_fake
def _forward_shapes(queries: Tensor, references: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor]:
    (b, n, _), m = queries.shape, references.shape[1]
    values = queries.new_empty(b, n, m, dtype=torch.float32)
    if metric == "euclidean":
        return values, values.new_empty(b, 0), values.new_empty(b, 0)
    return values, values.new_empty(b, n), values.new_empty(b, m)


@torch.library.custom_op("pineco::patch_distance_gradient", mutates_args=())
def _gradient(
    gradients: Tensor,
    values: Tensor,
    own: Tensor,
    other: Tensor,
    inverse_own: Tensor,
    inverse_other: Tensor,
    metric: str,
) -> Tensor:
    from pineco.kernels.patch_distance import kernel  # not above: Triton is not installed everywhere

    with torch.cuda.device_of(own):
        return kernel.gradient(gradients, values, own, other, inverse_own, inverse_other, metric)


@_gradient.register_fake
def _gradient_shape(
    gradients: Tensor,
    values: Tensor,
    own: Tensor,
    other: Tensor,
    inverse_own: Tensor,
    inverse_other: Tensor,
    metric: str,
) -> Tensor:
    return own.new_empty(own.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: tuple[Tensor, Tensor, Tensor]) -> None:
    queries, references, ctx.metric = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(queries, references, *output)


def _backward(ctx: Any, gradients: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    queries, references, values, inverse_q, inverse_r = ctx.saved_tensors
    to_queries = to_references = None
    if ctx.needs_input_grad[0]:
        to_queries = _gradient(gradients, values, queries, references, inverse_q, inverse_r, ctx.metric)
    if ctx.needs_input_grad[1]:
        swapped = gradients.mT, values.mT, references, queries, inverse_r, inverse_q
        to_references = _gradient(*swapped, ctx.metric)
    return to_queries, to_references, None


_forward.register_autograd(_backward, setup_context=_keep)


def patch_distance(
    queries: Tensor, references: Tensor, *, metric: Metric = "cosine", backend: Backend | None = None
) -> Tensor:
    """Distance of every query patch to every reference patch of its image, differentiable in both.

    queries: (B, N, D) float32, float16 or bfloat16 with any strides; float64 runs the reference only.
    references: (B, M, D), or (M, D) shared by the whole batch, of the same dtype and device.
    metric: "cosine" is 1 - cos, in [0, 2]; "cosine_similarity" is cos, in [-1, 1]; "euclidean" is |x - y|.
    returns: (B, N, M) float32, whatever the inputs are, under autocast, too; float64 for float64 inputs.
    raises: ValueError for shapes, dtypes, devices or a metric that do not fit, and on the CPU for NaN or infinite
    values; elsewhere, and inside torch.compile, a check would stop the device, and such values come out not finite.

    A vector shorter than 1e-12 counts as zero: its cosine with everything is 0 and it gets no gradient. Other vectors
    may have any scale. Euclidean distances of 0 pass no gradient.
    """
    _check(queries, references, metric)
    chosen = choose_backend(backend, queries, obstacle=_obstacle(queries))
    shape = (*queries.shape[:2], references.shape[-2])
    if references.dim() == 2:  # shared references: all patches of the batch are queries of one problem
        queries, references = queries.reshape(1, -1, queries.shape[-1]), references[None]
    if chosen == "reference" or not queries.numel() or not references.numel():
        return reference.patch_distance(queries, references, metric).reshape(shape)
    return _forward(queries, references, metric)[0].view(shape)


def _obstacle(queries: Tensor) -> str | None:
    return None if queries.dtype in _DTYPES else f"the inputs are {queries.dtype}"


def _check(queries: Tensor, references: Tensor, metric: str) -> None:
    if metric not in _METRICS:
        raise ValueError(f"metric is {metric!r}; it must be one of {', '.join(_METRICS)}")
    got = f"queries {tuple(queries.shape)} and references {tuple(references.shape)}"
    if queries.dim() != 3 or references.dim() not in (2, 3):
        raise ValueError(f"{got}: queries must be (B, N, D), references (B, M, D) or (M, D)")
    if references.dim() == 3 and len(queries) != len(references):
        raise ValueError(f"{got} differ in B; pass references (M, D) to share them")
    if queries.shape[-1] != references.shape[-1] or not queries.shape[-1]:
        raise ValueError(f"{got} must have the same number of features D, at least 1")
    if queries.device != references.device:
        raise ValueError(f"queries are on {queries.device}, references on {references.device}; move one of them")
    if queries.dtype != references.dtype or queries.dtype not in (*_DTYPES, torch.float64):
        raise ValueError(f"queries are {queries.dtype}, references {references.dtype}; cast both to one floating dtype")
    if queries.device.type == "cpu" and not torch.compiler.is_compiling():
        for name, tensor in (("queries", queries), ("references", references)):
            if tensor.numel() and not all(extreme.isfinite() for extreme in tensor.detach().aminmax()):
                raise ValueError(f"{name} hold NaN or infinite values; look for what made them, e.g. a diverged step")
