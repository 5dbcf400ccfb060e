"""soft_sort: the public op, and its registration with PyTorch."""

from __future__ import annotations

from numbers import Real
from typing import Any, cast, get_args

import torch
from torch import Tensor

from pineco.kernels.backend import Backend, choose_backend
from pineco.kernels.soft_sort import chunked
from pineco.kernels.soft_sort.networks import LARGEST, Network, wiring
from pineco.kernels.soft_sort.relaxation import Distribution, Relaxation, check_steepness

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@torch.library.custom_op("pineco::soft_sort", mutates_args=())
def _forward(
    values: Tensor, network: str, distribution: str, steepness: float, art_lambda: float, backend: str
) -> tuple[Tensor, Tensor]:
    """Sorted values (rows, n), and the transpose of the permutation: (rows, sorted n, original n)."""
    if values.device.type == "cpu" and not torch.isfinite(values).all():
        raise ValueError("soft_sort: values have a NaN or an infinity; sort finite values")
    relaxation = Relaxation(cast(Distribution, distribution), steepness, art_lambda)
    exact = _computed(values)
    if backend == "triton":
        from pineco.kernels.soft_sort import kernel  # not above: Triton is not installed everywhere

        with torch.cuda.device_of(values):
            return kernel.forward(exact, cast(Network, network), relaxation)
    return chunked.forward(exact, wiring(cast(Network, network), values.shape[1], values.device), relaxation)


@torch.library.custom_op("pineco::soft_sort_backward", mutates_args=())
def _backward(
    grad_ordered: Tensor | None, grad_permutation: Tensor | None, values: Tensor,
    network: str, distribution: str, steepness: float, art_lambda: float, backend: str,
) -> Tensor:  # fmt: skip
    """Gradient to the values (rows, n), in their dtype."""
    relaxation = Relaxation(cast(Distribution, distribution), steepness, art_lambda)
    exact = _computed(values)
    if backend == "triton":
        from pineco.kernels.soft_sort import kernel  # not above: Triton is not installed everywhere

        ordered, permutation = (x if x is None else x.contiguous() for x in (grad_ordered, grad_permutation))
        with torch.cuda.device_of(values):
            grad = kernel.backward(ordered, permutation, exact, cast(Network, network), relaxation)
    else:
        wires = wiring(cast(Network, network), values.shape[1], values.device)
        grad = chunked.backward(grad_ordered, grad_permutation, exact, wires, relaxation)
    return grad.to(values.dtype)


def _computed(values: Tensor) -> Tensor:
    """Contiguous values in the dtype of the outputs: float32, or float64 for float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32)).contiguous()


@_forward.register_fake
def _(
    values: Tensor, network: str, distribution: str, steepness: float, art_lambda: float, backend: str
) -> tuple[Tensor, Tensor]:
    rows, n = values.shape
    dtype = torch.promote_types(values.dtype, torch.float32)
    return values.new_empty(rows, n, dtype=dtype), values.new_empty(rows, n, n, dtype=dtype)


@_backward.register_fake
def _(
    grad_ordered: Tensor | None, grad_permutation: Tensor | None, values: Tensor,
    network: str, distribution: str, steepness: float, art_lambda: float, backend: str,
) -> Tensor:  # fmt: skip
    return values.new_empty(values.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    values, *ctx.settings = inputs
    ctx.save_for_backward(values)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_ordered: Tensor | None, grad_permutation: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_ordered is None and grad_permutation is None:
        return None, *[None] * len(ctx.settings)
    grad = _backward(grad_ordered, grad_permutation, *ctx.saved_tensors, *ctx.settings)
    return grad, *[None] * len(ctx.settings)


_forward.register_autograd(_differentiate, setup_context=_save)


def soft_sort(
    values: Tensor, *, network: Network = "bitonic", steepness: float = 10.0, distribution: Distribution = "cauchy",
    art_lambda: float = 0.25, backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sorts rows in ascending order by a sorting network of soft comparators (Petersen et al. 2021, 2105.04019).

    values: (rows, n), 1 <= n <= 1024; float32, float16, bfloat16 or float64, any strides.
    Returns sorted (rows, n) and permutation (rows, n, n), with sorted = values @ permutation: entry [r, i, j] is the
    share of values[r, i] in sorted[r, j]. Both are float32 (float64 for float64) and computed so, also under autocast.
    Rows and columns of the permutation sum to 1. It is a transposed view: the originals are contiguous.
    steepness: of the comparators, above 0, at most 3.4e38; the larger, the more exact the sort. distribution: F of
    relaxation.py.
    art_lambda: of `logistic_phi` only, 0 to 1. backend: see pineco.kernels.backend.

    Raises ValueError for arguments out of these bounds, and on the CPU for values that are not finite. On CUDA, where
    looking would stop the device, a row with such a value comes out as NaN in both outputs and in its gradient.
    """
    if not isinstance(values, Tensor):
        raise ValueError(f"soft_sort: values are a {type(values).__name__}; pass a tensor (rows, n)")
    if values.ndim != 2 or not 1 <= values.shape[1] <= LARGEST:
        raise ValueError(
            f"soft_sort: values are {tuple(values.shape)}; pass (rows, n) with n from 1 to {LARGEST}, "
            "leading dimensions flattened"
        )
    if values.dtype not in _FLOATS:
        raise ValueError(f"soft_sort: values are {values.dtype}; pass float32, float16, bfloat16 or float64")
    for name, given, known in (("network", network, Network), ("distribution", distribution, Distribution)):
        if given not in get_args(known):
            raise ValueError(f"soft_sort: {name} is {given!r}; choose one of {', '.join(get_args(known))}")
    check_steepness("soft_sort: steepness", steepness)
    if not (isinstance(art_lambda, Real) and 0 <= art_lambda <= 1):
        raise ValueError(f"soft_sort: art_lambda is {art_lambda!r}; pass a number from 0 to 1")
    chosen = choose_backend(backend, values, obstacle=_obstacle(values))
    ordered, transposed = _forward(values, network, distribution, float(steepness), float(art_lambda), chosen)
    return ordered, transposed.mT


def _obstacle(values: Tensor) -> str | None:
    """Why the kernels cannot take these values, if so."""
    if values.shape[1] < 2:
        return "n is 1, which leaves nothing to sort"
    return "they compute in float32, and the values are float64" if values.dtype == torch.float64 else None
