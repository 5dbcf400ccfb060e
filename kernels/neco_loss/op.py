"""neco_loss: the public op, and its registration with PyTorch."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from pineco.kernels.backend import Backend, choose_backend
from pineco.kernels.neco_loss import chunked
from pineco.kernels.patch_distance import patch_distance
from pineco.kernels.soft_sort.networks import LARGEST, Network, wiring
from pineco.kernels.soft_sort.relaxation import Distribution, Relaxation, check_steepness

SortedMetric = Literal["cosine_similarity", "euclidean"]
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@torch.library.custom_op("pineco::neco_loss", mutates_args=())
def _forward(
    student: Tensor, teacher: Tensor, scale: Tensor, network: str, distribution: str,
    student_steepness: float, teacher_steepness: float, backend: str, gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Similarities (rows, m) of both sides and the rows' shares of the loss (rows,) to the loss, a scalar.

    And its gradient to the student's similarities: (rows, m) if it is wanted, else (0, m).
    """
    sharp = [Relaxation(cast(Distribution, distribution), s) for s in (student_steepness, teacher_steepness)]
    tensors, known = (student.contiguous(), teacher.contiguous(), scale), cast(Network, network)
    if backend == "triton":
        from pineco.kernels.neco_loss import kernel  # not above: Triton is not installed everywhere

        with torch.cuda.device_of(student):
            losses, grad = kernel.forward(*tensors, known, sharp[0], sharp[1], gradient)
    else:
        wires = wiring(known, student.shape[1], student.device)
        losses, grad = chunked.forward(*tensors, wires, sharp[0], sharp[1], gradient)
    return losses.sum(dtype=torch.float64).to(losses.dtype), student.new_empty(
        0, student.shape[1]
    ) if grad is None else grad


@_forward.register_fake
def _(
    student: Tensor, teacher: Tensor, scale: Tensor, network: str, distribution: str,
    student_steepness: float, teacher_steepness: float, backend: str, gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return student.new_empty(()), student.new_empty(len(student) if gradient else 0, student.shape[1])


@torch.library.custom_op("pineco::neco_loss_gradient", mutates_args=())
def _gradient(grad_loss: Tensor, gradient: Tensor, student: Tensor) -> Tensor:
    """The gradient scaled. It depends on the student, so that a second gradient is refused instead of being wrong."""
    return grad_loss * gradient


@_gradient.register_fake
def _(grad_loss: Tensor, gradient: Tensor, student: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.arguments = len(inputs)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], inputs[0])


def _backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(grad_loss, *ctx.saved_tensors), *[None] * (ctx.arguments - 1)


_forward.register_autograd(_backward, setup_context=_save)


def neco_loss(
    student: Tensor, teacher: Tensor, references: Tensor, *, network: Network = "bitonic",
    student_steepness: float = 100.0, teacher_steepness: float = 100.0, distribution: Distribution = "cauchy",
    metric: SortedMetric = "cosine_similarity", weights: Tensor | None = None, backend: Backend | None = None,
) -> Tensor:  # fmt: skip
    """Patch ordering loss of NeCo (2408.11054): student patches should sort the references as teacher patches do.

    student, teacher: (B, N, D) features of patches, i of both at the same place of the image. references: (B, M, D), or
    (M, D) shared by the batch, 1 <= M <= 1024. One floating dtype, any strides and scale. Only the student gets a
    gradient.
    metric: of what is sorted, ascending: cosine similarities, or euclidean distances (an ablation of the paper's).
    network, distribution, *_steepness: of the soft sort of each patch's row; see pineco.kernels.soft_sort.
    weights: (B,) or (B, N), finite and not negative, of the patches in the mean; None for equal ones. They get no
    gradient. Where all are 0, the loss and its gradient are.
    returns: a scalar, the mean over patches and references of the cross-entropy between the student's and the teacher's
    distributions over positions; float32 (float64 for float64), also under autocast. It and its gradient are finite.
    raises: ValueError for arguments out of these bounds, and on the CPU for values that are not finite; elsewhere, and
    inside torch.compile, a check would stop the device, and the loss comes out as NaN. backend: see kernels.backend.
    """
    _check(student, teacher, references, weights)
    if metric not in get_args(SortedMetric):
        raise ValueError(f"neco_loss: metric {metric!r}; pass one of {', '.join(get_args(SortedMetric))}")
    _check_options(network, distribution, student_steepness, teacher_steepness)
    m = references.shape[-2]
    chosen = choose_backend(backend, student, obstacle=_obstacle(student, m))
    references = references.detach()
    of_student = patch_distance(student, references, metric=metric, backend=backend).reshape(-1, m)
    with torch.no_grad():
        of_teacher = patch_distance(teacher, references, metric=metric, backend=backend).reshape(-1, m)
        scale = _scale(weights, of_teacher, student.shape[:2])
    wanted = torch.is_grad_enabled() and of_student.requires_grad
    settings = network, distribution, float(student_steepness), float(teacher_steepness), chosen, wanted
    loss: Tensor = _forward(of_student, of_teacher, scale, *settings)[0]
    return loss


def _scale(weights: Tensor | None, similarities: Tensor, patches: torch.Size) -> Tensor:
    """(rows,): by what to multiply each row's sum over references, so that the sum over rows is the weighted mean."""
    rows, m = similarities.shape
    if weights is None:
        return similarities.new_full((rows,), 1 / max(1, rows * m))
    weights = weights.to(torch.promote_types(weights.dtype, similarities.dtype))  # float64 may leave float32's range
    weights = (weights if weights.dim() == 2 else weights[:, None]).expand(patches).reshape(rows)
    weights = torch.where(weights < 0, math.nan, weights)  # refused where one can look
    if rows:
        largest = weights.amax()  # a sum of huge weights would be infinite
        weights = weights / torch.where(largest == 0, 1, largest)
    total = weights.sum()
    return (weights / (torch.where(total == 0, 1, total) * m)).to(similarities.dtype)


def _obstacle(student: Tensor, m: int) -> str | None:
    """Why the kernels cannot take these arguments, if so."""
    if m < 2:
        return "M is 1, which leaves nothing to sort"
    return "they compute in float32, and the features are float64" if student.dtype == torch.float64 else None


def _check_tensors(student: object, teacher: object, references: object, weights: object) -> None:
    for name, given, shape in (
        ("student is", student, "(B, N, D)"),
        ("teacher is", teacher, "(B, N, D)"),
        ("references are", references, "(B, M, D) or (M, D)"),
        ("weights are", student if weights is None else weights, "(B,) or (B, N)"),
    ):
        if not isinstance(given, Tensor):
            raise ValueError(f"neco_loss: {name} a {type(given).__name__}; pass a tensor {shape}")


def _check(student: Tensor, teacher: Tensor, references: Tensor, weights: Tensor | None) -> None:
    _check_tensors(student, teacher, references, weights)
    features = {"student": student, "teacher": teacher, "references": references}
    got = (
        f"neco_loss: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}, "
        f"references {tuple(references.shape)}"
    )
    if student.dim() != 3 or teacher.shape != student.shape or references.dim() not in (2, 3):
        raise ValueError(f"{got}; pass (B, N, D) twice, and references (B, M, D) or (M, D)")
    if references.dim() == 3 and len(references) != len(student):
        raise ValueError(f"{got} differ in B; pass references (M, D) to share them")
    if references.shape[-1] != student.shape[-1] or not student.shape[-1]:
        raise ValueError(f"{got} must have the same number of features D, at least 1")
    if not 1 <= references.shape[-2] <= LARGEST:
        raise ValueError(f"{got}; pass 1 to {LARGEST} references of each image")
    if weights is not None and weights.shape not in (student.shape[:1], student.shape[:2]):
        raise ValueError(f"{got}, weights {tuple(weights.shape)}; pass weights (B,) or (B, N)")
    tensors = features if weights is None else features | {"weights": weights}
    if len({x.device for x in tensors.values()}) > 1:
        devices = ", ".join(f"{name} on {x.device}" for name, x in tensors.items())
        raise ValueError(f"neco_loss: {devices}; move them to one device")
    if len({x.dtype for x in features.values()}) > 1 or student.dtype not in _FLOATS:
        dtypes = ", ".join(f"{name} {x.dtype}" for name, x in features.items())
        raise ValueError(f"neco_loss: {dtypes}; cast them to one of float32, float16, bfloat16 or float64")
    if weights is not None and weights.is_complex():
        raise ValueError(f"neco_loss: weights are {weights.dtype}; pass real numbers")
    if student.device.type == "cpu" and not torch.compiler.is_compiling():
        _look(tensors)


def _look(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.numel() and not all(extreme.isfinite() for extreme in tensor.detach().aminmax()):
            raise ValueError(f"neco_loss: {name} hold NaN or infinite values; look for what made them")
    if "weights" in tensors and (tensors["weights"] < 0).any():
        raise ValueError("neco_loss: some weights are negative; pass weights of at least 0")


def _check_options(network: str, distribution: str, student_steepness: float, teacher_steepness: float) -> None:
    for name, given, known in (("network", network, Network), ("distribution", distribution, Distribution)):
        if given not in get_args(known):
            raise ValueError(f"neco_loss: {name} is {given!r}; choose one of {', '.join(get_args(known))}")
    for name, steepness in (("student_steepness", student_steepness), ("teacher_steepness", teacher_steepness)):
        check_steepness(f"neco_loss: {name}", steepness)
