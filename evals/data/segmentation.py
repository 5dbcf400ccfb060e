"""Images with masks in shards, and what is wrong with them. Torch-free.

ROOT/classes.txt                     one name a line, line 0 is class 0
ROOT/SPLIT/00000.tar 00001.tar ...   members KEY.jpg (or .png, .webp) and KEY.seg.png

A mask is an 8-bit grey or a palette PNG as large as its image; a pixel is the number of a class, or 255 for void.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.shard_stream import stream_samples
from pineco.data_pipeline.stores.store import LocalStore, Store
from pineco.evals.data.roots import below, open_place, read_text
from pineco.evals.data.samples import IMAGE_EXTENSIONS, BadSampleError, Example, Problems, decode

VOID = 255
MASK_EXTENSION, CLASSES_FILE = "seg.png", "classes.txt"
_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # places in a PNG file
_GREY, _PALETTE = 0, 3  # colour types


@dataclass(frozen=True)
class Split:
    """The shards of one split; each sample was seen to have an image and a mask, neither was decoded."""

    name: str
    store: Store
    shards: tuple[str, ...]
    images: int
    digest: str  # sha256 of the samples' keys, in order


@dataclass(frozen=True)
class SegmentationSet:
    """A data set whose layout was checked."""

    root: str
    classes: tuple[str, ...]  # C names, all different
    train: Split
    test: Split


@dataclass(frozen=True)
class SegmentationExample:
    """One undecoded image with its undecoded mask."""

    where: str  # shard and key, for messages
    image: bytes
    mask: bytes


def open_segmentation(root: str | Path, *, train: str = "train", test: str = "test") -> SegmentationSet:
    """Checks classes.txt and reads both splits once for their keys.

    root: a folder or s3://bucket/prefix. Raises InputError for what is missing: classes, a split, shards, and (all
    counted, the first few named) images without masks and masks without images.
    """
    store = open_place(root)
    return SegmentationSet(store.root_name, _classes(store), _split(store, train), _split(store, test))


def read_examples(split: Split) -> Iterator[SegmentationExample]:
    """Every image with its mask, in the order of the shards, read ahead."""
    with closing(stream_samples(split.store, split.shards)) as samples:
        for shard, key, members in samples:
            yield _example(f"{split.store.where(shard)}, {key}", members)


def decode_pair(example: SegmentationExample, classes: int) -> tuple[Image.Image, np.ndarray]:
    """(RGB image, (H, W) uint8 mask of the same size with values below `classes` or VOID). Thread-safe.

    The image is not turned by Exif: a mask lies over the pixels as they are stored. Raises BadSampleError.
    """
    image = decode(Example(example.where, example.image))
    mask = _decode_mask(example, image.size)
    wrong = mask[(mask >= classes) & (mask != VOID)]
    if wrong.size:
        numbers = f"a class number from 0 to {classes - 1} ({CLASSES_FILE}) or {VOID}"
        raise BadSampleError(
            example.where, f"the mask has {wrong.size} pixels of {int(wrong[0])}, which is not {numbers}"
        )
    return image, mask


def _decode_mask(example: SegmentationExample, size: tuple[int, int]) -> np.ndarray:
    """Compares the size before it decodes, so that a mask takes no more memory than its image."""
    data = example.mask
    try:
        mask = PngImageFile(io.BytesIO(data))
        if mask.size != size:
            sizes = f"the mask has {mask.width} x {mask.height} pixels, the image {size[0]} x {size[1]}"
            raise BadSampleError(example.where, sizes)
        grey = data[_COLOUR_TYPE] == _GREY and data[_BIT_DEPTH] == 8  # Pillow stretches 1, 2 and 4 bits to 0 ... 255
        if not grey and data[_COLOUR_TYPE] != _PALETTE:
            kind = f"colour type {data[_COLOUR_TYPE]} with {data[_BIT_DEPTH]} bits"
            raise BadSampleError(example.where, f"the mask is a PNG of {kind}; must be 8-bit grey or palette")
        return np.array(mask)
    except BadSampleError:
        raise
    except Exception as error:  # what Pillow raises for damaged bytes is of many kinds
        reason = " ".join(str(error).split())[:200]
        raise BadSampleError(example.where, f"the mask is no PNG, or damaged ({reason})") from None


def _example(where: str, members: Mapping[str, bytes]) -> SegmentationExample:
    image = next((members[e] for e in IMAGE_EXTENSIONS if e in members), None)
    if image is None:
        raise BadSampleError(where, f"holds {', '.join(members)}, but no image ({', '.join(IMAGE_EXTENSIONS)})")
    if MASK_EXTENSION not in members:
        raise BadSampleError(where, f"an image without a mask (.{MASK_EXTENSION})")
    return SegmentationExample(where, image, members[MASK_EXTENSION])


def _classes(store: Store) -> tuple[str, ...]:
    where = store.where(CLASSES_FILE)
    text = read_text(store, CLASSES_FILE)
    if text is None:
        raise InputError(f"{where}: missing; it names the classes of the masks, one a line")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 1 <= len(names) <= VOID:
        raise InputError(f"{where}: {len(names)} names; must be 1 to {VOID}, since {VOID} in a mask is void")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where}: {twice[0]!r} stands there twice; each class needs a name of its own")
    return names


def _split(store: Store, name: str) -> Split:
    if isinstance(store, LocalStore) and not (store.root / name).is_dir():
        raise InputError(f"{store.root_name}/{name}: no such folder; each split has one, with *.tar shards")
    place = below(store, name)
    shards = tuple(place.list_shards())
    problems, images, digest = Problems(), 0, hashlib.sha256()
    with closing(stream_samples(place, shards)) as samples:
        for shard, key, members in samples:
            images += 1
            digest.update(f"{key}\n".encode())
            try:
                _example(f"{place.where(shard)}, {key}", members)
            except BadSampleError as error:
                problems.add(error)
    problems.check(f"{store.root_name}/{name}", images)
    return Split(name, place, shards, images, digest.hexdigest())
