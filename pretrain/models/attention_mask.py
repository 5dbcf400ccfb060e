"""Which patches are foreground, by the attention of a class token: NeCo's `fg` and `bg` losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

MASS, SIGMA, KERNEL = 0.6, 0.6, 7  # as published: share of the attention that is kept, blur and its window
SMALLEST = 3  # patches of a component that stays
LEAST_SIDE = KERNEL // 2 + 1  # patches: the blur reflects half a window at the edges


def foreground(attention: Tensor) -> Tensor:
    """(B, h, w) attention of the class token, averaged over heads -> (B, h, w) bool.

    Blurred; then the patches that together hold `MASS` of the attention; then without components (of eight
    neighbours) of fewer than `SMALLEST` patches. h, w >= `LEAST_SIDE`.
    """
    smooth = gaussian_blur(attention[:, None].float(), [KERNEL, KERNEL], [SIGMA, SIGMA])[:, 0]
    flat = smooth.flatten(1)
    values, order = flat.sort(dim=1)
    kept = (values / values.sum(dim=1, keepdim=True)).cumsum(dim=1) > 1 - MASS
    mask = torch.zeros_like(kept).scatter(1, order, kept).view(attention.shape)
    return _without_small(mask)


def _without_small(mask: Tensor) -> Tensor:
    """A component has one patch if that has no neighbour, and two if its neighbour has no other one."""
    neighbours = _count(mask) * mask
    single = mask & (neighbours == 0)
    ends = mask & (neighbours == 1)
    pair = ends & (_count(ends) >= 1)
    return mask & ~single & ~pair


def _count(mask: Tensor) -> Tensor:
    """(B, h, w): how many of the eight neighbours are set."""
    window = torch.ones(1, 1, 3, 3, device=mask.device)
    window[..., 1, 1] = 0
    return F.conv2d(mask[:, None].float(), window, padding=1)[:, 0].round().long()
