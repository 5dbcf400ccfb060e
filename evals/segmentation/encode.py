"""One pass of a split with masks through a model, and the images of a test split as confusion counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from pineco.evals.batching import ahead
from pineco.evals.data.samples import BadSampleError, Problems
from pineco.evals.data.segmentation import SegmentationExample, SegmentationSet, Split, decode_pair, read_examples
from pineco.evals.models.model import Model
from pineco.evals.segmentation.miou import ConfusionCounter, Confusions

Predict = Callable[[Tensor], Tensor]  # (B, h, w, D) float32 -> (B, size, size) uint8 class numbers
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class How:
    """What does not change the figures, but for `size`. size: pixels of an image's side, a multiple of the patch."""

    size: int = 224
    batch_size: int = 32
    threads: int = 4
    progress: Progress = lambda what, done, of: None


@dataclass(frozen=True)
class Batch:
    first: int  # number of its first image in the split
    features: Tensor  # (B, h, w, D) float32
    masks: Tensor  # (B, size, size) uint8: class numbers, 255 for void
    examples: tuple[SegmentationExample, ...]


@dataclass(frozen=True)
class Measured:
    """runs: the test split, once for each predictor; shown: examples with the first predictor's (size, size) masks."""

    runs: tuple[Confusions, ...]
    shown: tuple[tuple[SegmentationExample, Tensor], ...]


def encode_split(model: Model, data: SegmentationSet, split: Split, how: How) -> Iterator[Batch]:
    """Every image of a split in file order.

    Raises InputError after the last one where any cannot be used (all are counted, the first few named); from the
    first such one on images are only decoded, since no figure will come of it.
    """
    problems, done, what = Problems(), 0, f"{split.name} images"

    def load(example: SegmentationExample) -> tuple[SegmentationExample, Tensor, Tensor] | BadSampleError:
        try:
            image, mask = decode_pair(example, len(data.classes))
        except BadSampleError as error:
            return error
        return example, model.squash(image, how.size), resize_masks(torch.from_numpy(mask)[None], how.size)[0]

    loaded = ahead(load, read_examples(split), how.threads, 2 * how.batch_size)
    while batch := list(islice(loaded, how.batch_size)):
        for item in batch:
            if isinstance(item, BadSampleError):
                problems.add(item)
        good = [item for item in batch if not isinstance(item, BadSampleError)]
        if not problems:
            features = model.tokens(torch.stack([pixels for _, pixels, _ in good]))
            masks = torch.stack([mask for _, _, mask in good])
            yield Batch(done, features, masks, tuple(example for example, _, _ in good))
        done += len(batch)
        how.progress(what, done, split.images)
    problems.check(f"{data.root}/{split.name}", done)


def measure(
    model: Model, data: SegmentationSet, predictors: Sequence[Predict], how: How, show: Collection[int] = ()
) -> Measured:
    """Predicts every test image with each predictor, at (size, size). show: numbers of test images to keep."""
    counters, shown = [ConfusionCounter(len(data.classes)) for _ in predictors], []
    for batch in encode_split(model, data, data.test, how):
        for place, (predict, counter) in enumerate(zip(predictors, counters, strict=True)):
            predictions = predict(batch.features)
            for number, (truth, prediction) in enumerate(zip(batch.masks, predictions, strict=True)):
                counter.add(truth.numpy(), prediction.numpy())
                if not place and batch.first + number in show:
                    shown.append((batch.examples[number], prediction))
    return Measured(tuple(counter.result() for counter in counters), tuple(shown))


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """(B, size, size) of (B, H, W) uint8: the nearest pixel, by PyTorch's rule, as torchvision resizes a tensor."""
    return F.interpolate(masks[:, None], size=(size, size), mode="nearest")[:, 0]


def upsample(scores: Tensor, size: int) -> Tensor:
    """(B, size, size) uint8, the class with the highest of (B, C, h, w) scores after bilinear interpolation."""
    grown = F.interpolate(scores, size=(size, size), mode="bilinear", align_corners=False)
    return grown.argmax(1).to(torch.uint8).cpu()
