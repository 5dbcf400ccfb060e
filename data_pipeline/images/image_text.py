"""Image-text pairs from webdataset shards (img2dataset's layout): jpg | png | webp with txt, and json beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pineco.data_pipeline.batches import ImageTextBatch
from pineco.data_pipeline.images.decode import DecodeCounts, DecodeError, decode_image
from pineco.data_pipeline.images.transforms import Augmentation, augment, to_tensor
from pineco.data_pipeline.order import Extents, cut_extents
from pineco.data_pipeline.randomness import Stream, generator
from pineco.data_pipeline.reading.reader import Members, SampleError
from pineco.data_pipeline.reading.shard_set import ShardSet

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
Tokenize = Callable[[list[str]], Tensor]  # B captions -> (B, L) int64


class ImageTextSource:
    """Fills batches of images, tokens and sample numbers.

    captions: `first` reads txt; `any` draws one of the list `captions` in json anew in every epoch.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        image_size: int,
        tokenize: Tokenize,
        seed: int,
        augmentation: Augmentation,
        captions: Literal["first", "any"] = "first",
    ) -> None:
        self.image_size, self.tokenize, self.seed = image_size, tokenize, seed
        self.augmentation, self.captions, self.decoded = augmentation, captions, DecodeCounts()
        self._text = "json" if captions == "any" else "txt"
        self._context = tokenize([""]).shape[1]
        self.shards = shards
        shards.require(IMAGE_EXTENSIONS, "an image")
        shards.require((self._text,), f"a .{self._text}")
        self.reader = shards.reader((*IMAGE_EXTENSIONS, self._text))

    def __len__(self) -> int:
        return len(self.shards.index)

    def extents(self, lanes: int) -> Extents:
        return cut_extents(self.shards.index.groups_by_shard(), lanes=lanes)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        return samples[:, None]

    def empty(self, samples: int, *, pin: bool) -> ImageTextBatch:
        return ImageTextBatch(
            torch.empty((samples, 3, self.image_size, self.image_size), dtype=torch.uint8, pin_memory=pin),
            torch.empty((samples, self._context), dtype=torch.int64, pin_memory=pin),
            torch.empty(samples, dtype=torch.int64, pin_memory=pin),
        )

    def fill(self, batch: ImageTextBatch, slot: int, sample: int, epoch: int, rows: Sequence[Members]) -> None:
        """Raises SampleError where a member is missing, no image or no text."""
        (members,) = rows
        batch.tokens[slot] = self.tokenize([self._caption(members, sample, epoch)])[0]
        random = generator(self.seed, Stream.AUGMENTATION, epoch, sample)
        batch.images[slot] = augment(read_image(members, self.decoded), self.image_size, self.augmentation, random)
        batch.samples[slot] = sample

    def _caption(self, members: Members, sample: int, epoch: int) -> str:
        if self._text not in members:
            raise SampleError(f"lacks a .{self._text}")
        try:
            text = bytes(members[self._text]).decode("utf-8")
            if self._text == "txt":
                return text
            captions = json.loads(text)["captions"]
            if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
                raise TypeError("captions must be a list of strings")
            "".join(captions).encode()  # JSON may hold half of a surrogate pair, which no tokenizer takes
            return captions[generator(self.seed, Stream.CAPTION, epoch, sample).integers(len(captions))]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SampleError(f".{self._text}: no UTF-8 text, or no list called captions ({error!r})") from None


def read_image(members: Members, decoded: DecodeCounts) -> Tensor:
    """(3, H, W) uint8 of the first image among the members; raises SampleError where there is none."""
    for extension in IMAGE_EXTENSIONS:
        if extension in members:
            try:
                return to_tensor(decode_image(bytes(members[extension]), counts=decoded))
            except DecodeError as error:
                raise SampleError(f".{extension}: {error}") from None
    raise SampleError("lacks an image")
