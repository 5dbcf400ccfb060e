"""Image-text pairs from webdataset shards (img2dataset's layout): jpg | png | webp with txt, and json beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data_pipeline.batches import ImageTextBatch
from data_pipeline.decode import DecodeError, decode_image
from data_pipeline.errors import InputError
from data_pipeline.index import Sample, index_shard
from data_pipeline.order import Extents, cut_extents
from data_pipeline.randomness import Stream, generator
from data_pipeline.shards import open_store
from data_pipeline.transforms import Augmentation, augment, to_tensor

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
Tokenize = Callable[[list[str]], Tensor]  # B captions -> (B, L) int64


class ImageTextSource:
    """Loads samples by number; holds the index of a folder of shards, no pixels."""

    def __init__(
        self,
        root: str,
        *,
        image_size: int,
        tokenize: Tokenize,
        seed: int,
        augmentation: Augmentation,
        captions: Literal["first", "any"] = "first",
    ) -> None:
        """captions: `first` reads txt; `any` draws one of the list `captions` in json anew in every epoch."""
        self.store = open_store(root)
        self.image_size, self.tokenize, self.seed = image_size, tokenize, seed
        self.augmentation, self.captions = augmentation, captions
        self._text = "json" if captions == "any" else "txt"
        self._shards = [(name, index_shard(self.store, name)) for name in self.store.list_shards()]
        self._places = [(name, sample) for name, samples in self._shards for sample in samples]
        for name, sample in self._places:
            self._check_members(name, sample)

    def __len__(self) -> int:
        return len(self._places)

    def extents(self, lanes: int) -> Extents:
        sizes = [np.array([sum(m.size for m in s.members.values()) for s in samples]) for _, samples in self._shards]
        return cut_extents(sizes, lanes=lanes)

    def load(self, samples: np.ndarray, epoch: int) -> ImageTextBatch:
        """samples: (B,) global sample numbers."""
        images = torch.empty((len(samples), 3, self.image_size, self.image_size), dtype=torch.uint8)
        for image, number in zip(images, samples, strict=True):
            image.copy_(self._image(int(number), epoch))
        texts = [self._caption(int(number), epoch) for number in samples]
        return ImageTextBatch(images, self.tokenize(texts), torch.from_numpy(samples))

    def _check_members(self, name: str, sample: Sample) -> None:
        missing = [] if self._image_extension(sample) else ["an image"]
        missing += [] if self._text in sample.members else [f"a .{self._text}"]
        if missing:
            raise InputError(f"{self.store.where(name)}: sample {sample.key!r} lacks {' and '.join(missing)}")

    @staticmethod
    def _image_extension(sample: Sample) -> str | None:
        return next((e for e in IMAGE_EXTENSIONS if e in sample.members), None)

    def _read(self, number: int, extension: str) -> bytes:
        name, sample = self._places[number]
        member = sample.members[extension]
        return self.store.read(name, member.offset, member.size)

    def _image(self, number: int, epoch: int) -> Tensor:
        name, sample = self._places[number]
        extension = self._image_extension(sample)
        assert extension is not None
        try:
            pixels = decode_image(self._read(number, extension))
        except DecodeError as error:
            raise InputError(f"{self.store.where(name)}: {sample.key}.{extension}: {error}") from None
        random = generator(self.seed, Stream.AUGMENTATION, epoch, number)
        return augment(to_tensor(pixels), self.image_size, self.augmentation, random)

    def _caption(self, number: int, epoch: int) -> str:
        name, sample = self._places[number]
        try:
            text = self._read(number, self._text).decode("utf-8")
            if self._text == "txt":
                return text
            captions = json.loads(text)["captions"]
            if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
                raise TypeError("captions must be a list of strings")
            return captions[generator(self.seed, Stream.CAPTION, epoch, number).integers(len(captions))]
        except (ValueError, KeyError, TypeError) as error:
            where = f"{self.store.where(name)}: {sample.key}.{self._text}"
            raise InputError(f"{where}: no UTF-8 text, or no list called captions ({error!r})") from None
