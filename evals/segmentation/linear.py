"""Linear segmentation: one linear layer on frozen patch features, trained on the training masks.

The settings are those of NeCo's linear probe (vpariza/NeCo, commit 3932160, experiments/linear_segmentation), which
are Leopart's: a 1 x 1 convolution without batch norm, SGD with momentum 0.9 and weight decay 1e-4, learning rate 0.01,
divided by ten after epoch 20 of 25, batches of 128 images, cross-entropy at 100 x 100 pixels. They are meant for
VOC's 10,582 images, that is for 2,000 steps: a small data set needs smaller batches or more epochs.

What differs: they upsample the features and then apply the layer, here its scores are upsampled, which is the same
function and costs C/D of it; they train on random crops and flips, here on whole images, so that features are computed
once; figures are taken at the size of the images, as in their separate evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pineco.data_pipeline.errors import InputError
from pineco.evals.batching import allocate
from pineco.evals.data.segmentation import VOID, SegmentationSet
from pineco.evals.models.model import Model, check_size
from pineco.evals.segmentation.encode import How, Measured, Progress, encode_split, measure, resize_masks, upsample

Schedule = Literal["step", "cosine"]


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Of the head's training. drop_at, drop: epochs after which "step" multiplies the learning rate by `drop`.

    batch_norm: before the layer, as DINOv2's linear heads have it. mask_size: pixels of the side at which the loss is
    taken. cache_bytes: features beyond that go to a temporary file instead of memory; the figures are the same.
    """

    epochs: int = 25
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    schedule: Schedule = "step"
    drop_at: int = 20
    drop: float = 0.1
    batch_norm: bool = False
    mask_size: int = 100
    cache_bytes: int = 4 << 30


class Head(nn.Module):
    """(B, h, w, D) features -> (B, C, h, w) scores."""

    def __init__(self, width: int, classes: int, *, batch_norm: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.layer = nn.utils.skip_init(nn.Conv2d, width, classes, 1)  # or it would draw from the global generator
        bound = 1 / math.sqrt(width)  # PyTorch's own start
        for parameter in self.layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(self.norm(features.permute(0, 3, 1, 2)))


def evaluate_linear(
    model: Model,
    data: SegmentationSet,
    settings: LinearProbe,
    how: How,
    *,
    seeds: Sequence[int] = (0,),
    show: Collection[int] = (),
) -> Measured:
    """One pass of the training images, a head for each seed, one pass of the test images.

    Raises InputError for a size that does not fit and for samples that cannot be used.
    """
    check_size(how.size, model.patch_size)
    features, masks = training_set(model, data, settings, how)
    heads = [
        train_head(features, masks, len(data.classes), settings, seed, model.device, _named(how.progress, seed))
        for seed in seeds
    ]
    return measure(model, data, [_predictor(head, how.size, model.device) for head in heads], how, show)


def training_set(model: Model, data: SegmentationSet, settings: LinearProbe, how: How) -> tuple[Tensor, Tensor]:
    """(N, h, w, D) float32 features and (N, m, m) uint8 masks of the training images, m = mask_size."""
    side, images = how.size // model.patch_size, data.train.images
    features = allocate((images, side, side, model.width), settings.cache_bytes)
    masks = torch.empty(images, settings.mask_size, settings.mask_size, dtype=torch.uint8)
    for batch in encode_split(model, data, data.train, how):
        rows = slice(batch.first, batch.first + len(batch.features))
        features[rows] = batch.features
        masks[rows] = resize_masks(batch.masks, settings.mask_size)
    if bool((masks == VOID).all()):
        raise InputError(f"{data.root}/{data.train.name}: every pixel of every mask is void; nothing can be learnt")
    return features, masks


def train_head(
    features: Tensor,
    masks: Tensor,
    classes: int,
    settings: LinearProbe,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Head:
    """The head after the last epoch. A pure function of its arguments on the CPU.

    features: (N, h, w, D); masks: (N, m, m) uint8. progress: called with epochs done and their number.
    """
    generator = torch.Generator().manual_seed(seed)
    head = Head(features.shape[3], classes, batch_norm=settings.batch_norm, generator=generator).to(device)
    optimizer = torch.optim.SGD(
        head.parameters(), lr=0.0, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    steps = math.ceil(len(features) / settings.batch_size)
    for epoch in range(settings.epochs):
        for step, rows in enumerate(torch.randperm(len(features), generator=generator).split(settings.batch_size)):
            optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch, step, steps)
            loss = pixel_loss(head(features[rows].to(device)), masks[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        progress(epoch + 1, settings.epochs)
    return head.eval()


def learning_rate(settings: LinearProbe, epoch: int, step: int, steps: int) -> float:
    """Of one step of `steps` an epoch. "cosine" falls to 0 at the end of the last epoch."""
    if settings.schedule == "step":
        return settings.learning_rate * settings.drop ** (epoch // settings.drop_at)
    done = (epoch + step / steps) / settings.epochs
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def pixel_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over pixels that are not void, of (B, C, h, w) scores upsampled to the (B, m, m) masks.

    0 for a batch of nothing but void, whose mean would be NaN and destroy the head.
    """
    grown = F.interpolate(scores, size=masks.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(grown, masks.long(), ignore_index=VOID, reduction="sum")
    return total / (masks != VOID).sum().clamp(min=1)


def _predictor(head: Head, size: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    def predict(features: Tensor) -> Tensor:
        with torch.no_grad():
            return upsample(head(features.to(device)), size)

    return predict


def _named(progress: Progress, seed: int) -> Callable[[int, int], None]:
    return lambda done, of: progress(f"epochs of seed {seed}", done, of)
