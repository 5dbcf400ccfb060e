"""The typed batches: the whole contract between data_pipeline and pretrain.

Legend of letters, used in every shape of this project:
    B samples of one rank's micro-batch      H, W image height and width in pixels
    L text tokens (context length)           D features of an embedding
    V lanes of the sample order              T batches of an epoch
    K local crops of an image                G, S side of a global and of a local crop in pixels
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Batch:
    """Tensors that travel to the device together."""

    def to(self, device: torch.device) -> Self:
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def __len__(self) -> int:
        return int(getattr(self, fields(self)[0].name).shape[0])


@dataclass(frozen=True)
class ImageTextBatch(_Batch):
    images: Tensor  # (B, 3, H, W) uint8, RGB; normalised on the device by the objective
    tokens: Tensor  # (B, L) int64, 0 after the end-of-text token
    samples: Tensor  # (B,) int64, global sample numbers: position in the sorted list of shards


@dataclass(frozen=True)
class TripletBatch(_Batch):
    reference: Tensor  # (B, 3, H, W) uint8, RGB
    left: Tensor  # (B, 3, H, W) uint8, RGB
    right: Tensor  # (B, 3, H, W) uint8, RGB
    right_vote: Tensor  # (B,) float32 in [0, 1]: share of the voters who found `right` more similar
    samples: Tensor  # (B,) int64, row numbers among the rows that were kept


@dataclass(frozen=True)
class CaptionedTripletBatch(TripletBatch):
    tokens: Tensor  # (B, L) int64, of the prompt that the three images have in common; 0 after the end-of-text token


@dataclass(frozen=True)
class MultiCropBatch(_Batch):
    """Views of an image: 0 and 1 are the globals, 2 .. 1 + K the locals; none is mirrored.

    overlaps[b, g, o] is what global g shares with its o-th other view, which is the other global at o = 0 and local
    o - 1 (view 1 + o) at o > 0: first as seen by g, then as seen by the other view; (left, top, right, bottom) in
    [0, 1] of that view's sides.
    """

    globals: Tensor  # (B, 2, 3, G, G) uint8, RGB
    locals: Tensor  # (B, K, 3, S, S) uint8, RGB
    overlaps: Tensor  # (B, 2, 1 + K, 2, 4) float32
    samples: Tensor  # (B,) int64, global sample numbers: position in the sorted list of shards
