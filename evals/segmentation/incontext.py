"""In-context segmentation (Hummingbird): a patch takes the labels of its nearest patches in the training images.

Balažević et al., Towards In-context Scene Understanding, 2306.01667, as the code of vpariza/open-hummingbird-eval
(commit 5e79da2) computes it. Where the two differ, this follows the code:
- void pixels of the training masks count as class 0, which is the background of VOC but the sky of CamVid;
- masks are resized to the size of the images (nearest), and the figures are taken at that size;
- the code matches predicted classes to true ones (Hungarian method) before it takes the mean over all classes, which
  the paper does not say: that figure is `miou.matched_miou`, and `miou` is that of the classes as predicted.

Left out: the code fills its memory from random crops (area 0.5 to 1 of the image) with weak colour jitter, here it is
filled from whole images, so that a figure is a function of model, data and seed. Images are squashed bicubic, not
bilinear.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.segmentation import VOID, SegmentationSet
from pineco.evals.models.patches import DenseEncoder, check_size
from pineco.evals.segmentation.encode import How, Measured, encode_split, measure, upsample

CHUNK = 1 << 24  # similarities that exist at a time: 64 MiB
_QUERIES = 1024  # at a time
_STREAM = 0x4B1D  # keeps these draws apart from whatever else a seed is used for

Search = Literal["torch", "faiss"]
Find = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # (Q, D), k -> (Q, k) similarities, (Q, k) rows of the bank


@dataclass(frozen=True, kw_only=True)
class InContext:
    """memory_size: patches in the memory; each training image gives memory_size // images of them, or all it has."""

    memory_size: int = 1_024_000
    neighbours: int = 30
    temperature: float = 0.02
    search: Search = "torch"

    def per_image(self, images: int, patches: int) -> int:
        """Patches that each of `images` gives, all of them having `patches`."""
        if self.memory_size < images:
            raise InputError(f"--memory {self.memory_size}: less than one patch for each of {images} training images")
        return min(patches, self.memory_size // images)


@dataclass(frozen=True)
class Bank:
    """The memory: N patches."""

    features: Tensor  # (N, D) float32, L2-normalised
    labels: Tensor  # (N, C) float32, rows sum to 1


class BankBuilder:
    """Fills a memory, image by image, in space that is taken once."""

    def __init__(self, images: int, per_image: int, width: int, classes: int, seed: int) -> None:
        self._per_image, self._classes, self._seed, self._images = per_image, classes, seed, 0
        self._features = torch.empty(images * per_image, width)
        self._labels = torch.empty(images * per_image, classes)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """features: (h, w, D); labels: (h, w, C), the soft labels of its patches. Of one image."""
        labels = labels.flatten(0, 1)
        chosen = choose_patches(labels, self._per_image, self._seed, self._images)
        rows = slice(self._images * self._per_image, (self._images + 1) * self._per_image)
        self._features[rows] = F.normalize(features.flatten(0, 1)[chosen], dim=1)
        self._labels[rows] = labels[chosen]
        self._images += 1

    def result(self) -> Bank:
        rows = self._images * self._per_image
        return Bank(self._features[:rows], self._labels[:rows])


def evaluate_incontext(
    encoder: DenseEncoder,
    data: SegmentationSet,
    settings: InContext,
    how: How,
    *,
    seeds: Sequence[int] = (0,),
    show: Collection[int] = (),
) -> Measured:
    """One pass of the training images, one of the test images; a run for each seed, which chooses the memory's patches.

    Raises InputError for settings that do not fit and for samples that cannot be used.
    """
    check_size(how.size, encoder.patch_size)
    classes, patches = len(data.classes), (how.size // encoder.patch_size) ** 2
    per_image = settings.per_image(data.train.images, patches)
    builders = [BankBuilder(data.train.images, per_image, encoder.width, classes, seed) for seed in seeds]
    for batch in encode_split(encoder, data, data.train, how):
        labels = soft_labels(batch.masks, encoder.patch_size, classes)
        for builder in builders:
            for features, label in zip(batch.features, labels, strict=True):
                builder.add(features, label)
    predictors = [predictor(builder.result(), settings, how.size, encoder.device) for builder in builders]
    return measure(encoder, data, predictors, how, show)


def is_seeded(settings: InContext, images: int, patches: int) -> bool:
    """Whether the seed changes anything: it does not where every patch is in the memory."""
    return settings.per_image(images, patches) < patches


def soft_labels(masks: Tensor, patch: int, classes: int) -> Tensor:
    """(B, h, w, C) float32, the shares of the classes among a patch's pixels, of (B, H, W) masks. Void is class 0."""
    known = torch.where(masks == VOID, 0, masks).long()
    B, H, W = known.shape
    pixels = known.reshape(B, H // patch, patch, W // patch, patch).transpose(2, 3).flatten(3)
    counts = torch.zeros(*pixels.shape[:3], classes)
    return counts.scatter_add_(3, pixels, torch.ones(1).expand(pixels.shape)) / patch**2


def choose_patches(labels: Tensor, number: int, seed: int, image: int) -> Tensor:
    """(number,) int64 places of an image's patches that enter the memory, of (P, C) soft labels.

    A patch's score is the sum, over the classes in it, of how many of the image's patches hold that class, times a
    random number in [0, 1); those of the lowest scores are taken, so that patches of rare classes are likelier. All
    patches, in order, where no more than `number` exist. A pure function of its arguments.
    """
    if number >= len(labels):
        return torch.arange(len(labels))
    present = (labels > 0).float()
    scores = (present @ present.sum(0)).double()
    key, counter = np.array((seed, _STREAM), np.uint64), np.array((0, image, 0, 0), np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(len(labels))
    return torch.argsort(scores * torch.from_numpy((raw >> np.uint64(11)) / 2**53), stable=True)[:number]


def predictor(bank: Bank, settings: InContext, size: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Patch features (B, h, w, D) -> (B, size, size) uint8 class numbers."""
    bank = Bank(bank.features.to(device), bank.labels.to(device))
    find = _faiss(bank.features) if settings.search == "faiss" else _exact(bank.features)

    def predict(features: Tensor) -> Tensor:
        soft = label_patches(bank, features.flatten(0, 2).to(device), find, settings)
        return upsample(soft.reshape(*features.shape[:3], -1).permute(0, 3, 1, 2), size)

    return predict


def label_patches(bank: Bank, queries: Tensor, find: Find, settings: InContext) -> Tensor:
    """(Q, C) soft labels of (Q, D) patch features: those of the nearest, weighted by softmax(cosine / temperature)."""
    k = min(settings.neighbours, len(bank.features))
    soft = []
    for some in F.normalize(queries, dim=1).split(_QUERIES):
        similarities, rows = find(some, k)
        weights = (similarities / settings.temperature).softmax(1)
        soft.append(torch.einsum("qk,qkc->qc", weights, bank.labels[rows]))
    return torch.cat(soft)


def nearest(bank: Tensor, queries: Tensor, k: int, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """(Q, k) largest inner products of (Q, D) with the (N, D) rows of `bank`, descending, and which rows those are.

    Exact. At most `chunk` products exist at a time, and k of each query besides.
    """
    best, rows = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64, device=bank.device)
    step = max(1, chunk // len(queries))
    for start in range(0, len(bank), step):
        products = queries @ bank[start : start + step].T
        values, places = products.topk(min(k, products.shape[1]), dim=1)
        values, places = torch.cat((best, values), 1), torch.cat((rows, places + start), 1)
        best, order = values.topk(min(k, values.shape[1]), dim=1)
        rows = places.gather(1, order)
    return best, rows


def _exact(bank: Tensor) -> Find:
    return lambda queries, k: nearest(bank, queries, k)


def _faiss(bank: Tensor) -> Find:
    """The same search by faiss, on the CPU, where somebody has installed it."""
    index = import_faiss().IndexFlatIP(bank.shape[1])
    index.add(bank.cpu().numpy())

    def find(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        similarities, rows = index.search(queries.cpu().numpy(), k)
        return torch.from_numpy(similarities).to(bank.device), torch.from_numpy(rows).to(bank.device)

    return find


def import_faiss() -> Any:
    """Raises InputError where it is not installed: pineco does not depend on it."""
    try:
        import faiss  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise InputError("--search faiss: it is not installed; pip install faiss-cpu, or use --search torch") from None
    return faiss
