"""What to time of neco_loss, and against what: the original formula, and the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pineco.kernels.bench_case import Case
from pineco.kernels.neco_loss import neco_loss, reference
from pineco.kernels.soft_sort.networks import layers
from pineco.kernels.soft_sort.relaxation import Relaxation

# (B, N, M, D): NeCo's published step, 64 images x 10 pairs of views; more references at a batch of 8, where 512 of them
# take the original 190 MB a row. On a CPU, a small batch.
_SIZES = {"cuda": ((640, 49, 49, 256), (8, 49, 256, 256), (8, 49, 512, 256)), "cpu": ((4, 49, 49, 256),)}
_STEEPNESS = 100.0
_FLOPS = 4 + 4 + 6  # of a comparator on one vector: a layer of teacher and student, and back; fewest


def cases(device: torch.device) -> Iterator[Case]:
    """The loss and its gradient to the student, fp32."""
    for size in _SIZES[device.type]:
        yield from _rivals(size, device)


def _rivals(size: tuple[int, int, int, int], device: torch.device) -> Iterator[Case]:
    b, n, m, d = size
    random = torch.Generator().manual_seed(0)
    teacher, noise, references = (torch.randn(shape, generator=random) for shape in ((b, n, d), (b, n, d), (b, m, d)))
    student = (teacher + noise).to(device).requires_grad_()
    sharp = Relaxation("cauchy", _STEEPNESS)
    specified = partial(
        reference.neco_loss, weights=None, network="bitonic", student_relaxation=sharp, teacher_relaxation=sharp
    )
    candidates: dict[str, Callable[..., Tensor]] = {
        "ours": neco_loss,
        "diffsort": _original(m, device),
    }
    if device.type == "cuda":
        candidates["compiled"] = torch.compile(specified, dynamic=False)
    else:  # on a CPU, torch.compile had not done with its 21 layers after 6 minutes
        candidates["reference"] = specified
    comparators = sum(map(len, layers("bitonic", m)))
    for name, function in candidates.items():
        yield Case(
            op="neco_loss",
            case=f"{b}x{n}x{m}x{d} float32 loss and gradient",
            candidate=name,
            run=partial(_step, function, student, teacher.to(device), references.to(device)),
            bytes=4 * b * d * (3 * n + m),  # student, teacher, references; the student's gradient
            flops=_FLOPS * b * n * m * comparators + 3 * 2 * b * n * m * d,
        )


def _step(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, references: Tensor) -> object:
    return torch.autograd.grad(loss(student, teacher, references), student)


def _original(m: int, device: torch.device) -> Callable[..., Tensor]:
    """The published formula, with the published sorting networks: of the development dependencies."""
    network = import_module("diffsort").DiffSortNet(
        "bitonic", m, device=str(device), steepness=_STEEPNESS, distribution="cauchy"
    )

    def sort(vectors: Tensor, references: Tensor) -> Tensor:
        permutation: Tensor = network((normalize(vectors, dim=-1) @ normalize(references, dim=-1).mT).reshape(-1, m))[1]
        return permutation

    def loss(student: Tensor, teacher: Tensor, references: Tensor) -> Tensor:
        with torch.no_grad():
            target = sort(teacher, references)
        return -(target * sort(student, references).log()).sum(-1).mean()

    return loss
