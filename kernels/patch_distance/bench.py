"""What to time of patch_distance, and against what: eager torch, and torch.compile of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pineco.kernels.bench_case import Case
from pineco.kernels.patch_distance import patch_distance, reference

# (B, N, M, D): NeCo's published step, 64 images x 10 pairs of views; whole maps of ViT-B features
_SIZES = ((640, 49, 49, 256), (16, 256, 256, 768))


def cases(device: torch.device) -> Iterator[Case]:
    """Cosine distance, forward and with both gradients; fp32, and bf16 on a GPU."""
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    for size in _SIZES:
        for dtype in dtypes:
            yield from _rivals(size, dtype, device, backward=False)
            yield from _rivals(size, dtype, device, backward=True)


def _rivals(
    size: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, backward: bool
) -> Iterator[Case]:
    b, n, m, d = size
    random = torch.Generator().manual_seed(0)
    queries, references, gradients = (
        torch.randn(shape, generator=random).to(device) for shape in ((b, n, d), (b, m, d), (b, n, m))
    )
    vectors = [x.to(dtype).requires_grad_(backward) for x in (queries, references)]
    candidates = {
        "ours": patch_distance,
        "eager": _eager,
        "compiled": torch.compile(partial(reference.patch_distance, metric="cosine"), dynamic=False),
    }
    read = sum(x.numel() * x.element_size() for x in vectors)
    passes = 3 if backward else 1  # a gradient is one more product of the same size; both vectors are read again
    for name, function in candidates.items():
        yield Case(
            op="patch_distance",
            case=f"{b}x{n}x{m}x{d} {str(dtype).removeprefix('torch.')} {'both gradients' if backward else 'forward'}",
            candidate=name,
            run=partial(_step, function, vectors, gradients if backward else None),
            bytes=passes * read + (3 if backward else 1) * 4 * b * n * m,
            flops=passes * 2 * b * n * m * d + 2 * b * (n + m) * d,
        )


def _step(function: Callable[..., Tensor], vectors: list[Tensor], gradients: Tensor | None) -> object:
    distances = function(*vectors)
    if gradients is None:
        return distances
    return torch.autograd.grad(distances, vectors, gradients.to(distances.dtype))


def _eager(queries: Tensor, references: Tensor) -> Tensor:
    """What one writes: in the dtype of the inputs, normalised copies in memory."""
    return 1 - normalize(queries, dim=-1) @ normalize(references, dim=-1).mT
