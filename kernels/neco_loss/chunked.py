"""The loss in PyTorch, in chunks of rows: what runs where the Triton kernels do not.

Parts and their layout are those of soft_sort/chunked.py: groups of rows go through the network with their values first,
then chunks of a group with one unit vector for each reference.

The loss is a scalar, so its gradient is computed in the same pass, while the states of a chunk are there: the backward
pass only scales it.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from pineco.kernels.neco_loss.reference import SMALLEST
from pineco.kernels.soft_sort import chunked as sorting
from pineco.kernels.soft_sort.networks import Wiring
from pineco.kernels.soft_sort.relaxation import Relaxation

_SHARES = 1 << 20  # numbers that the values of a group leave for all layers of both sides


def forward(
    student: Tensor, teacher: Tensor, scale: Tensor, wiring: Wiring,
    student_relaxation: Relaxation, teacher_relaxation: Relaxation, gradient: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Similarities (rows, n) of both sides and the rows' shares of the loss (rows,) to the loss of every row (rows,).

    And its gradient to the student's similarities (rows, n), if it is wanted.
    """
    rows, n = student.shape
    losses, grad = torch.zeros_like(scale), torch.empty_like(student) if gradient else None
    chunk, tile = sorting.chunk_size(n, min(sorting.STATE, sorting.STATES // (len(wiring.partner) + 1)))
    for group in sorting.slices(rows, max(1, _SHARES // max(1, 5 * wiring.partner.numel()))):
        target = sorting.values_phase(teacher[group], wiring, teacher_relaxation)
        own = sorting.values_phase(student[group], wiring, student_relaxation)
        grad_keeps = torch.zeros_like(own.keeps)
        for part, vectors in product(sorting.slices(own.after.shape[1], chunk), sorting.slices(n, tile)):
            unit, share = sorting.unit_vectors(n, vectors, own.after[:, part]), scale[group][part]
            keeps = own.keeps[:, :, part]
            before: list[Tensor] | None = [] if gradient else None
            wanted = sorting.through(unit, wiring, target.keeps[:, :, part])
            got = sorting.through(unit, wiring, keeps, before)
            floored = got.clamp(min=SMALLEST)
            losses[group][part] -= (wanted * floored.log()).sum((0, 1)) * share
            if before is not None:
                pull = (wanted / floored).mul_(-share).masked_fill_(got < SMALLEST, 0)
                sorting.add_gains(grad_keeps[:, :, part], pull, before, wiring, keeps)
        if grad is not None:
            nothing = torch.zeros_like(own.after)
            grad[group] = sorting.values_backward(nothing, grad_keeps, own, wiring, student_relaxation).T
    return losses, grad
