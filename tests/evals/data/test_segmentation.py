"""Data sets of images with masks: what is read, and how bad ones are named."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.toy import make_toy_world
from pineco.data_pipeline.toy_world.settings import TINY
from pineco.evals.data.samples import BadSampleError
from pineco.evals.data.segmentation import SegmentationExample, decode_pair, open_segmentation, read_examples
from tests.support.segmentation_sets import CLASSES, Members, camvid, masks, png, sample, small_set, write_set


def test_reads_every_pair_in_order(tmp_path: Path) -> None:
    """An image would be measured against the mask of another one."""
    data = open_segmentation(small_set(tmp_path / "set"))
    assert (data.classes, data.train.images, data.test.images) == (CLASSES, 7, 5)
    examples = list(read_examples(data.train))
    assert [e.where.rsplit(", ")[-1] for e in examples] == [f"train{n:04d}" for n in range(7)]
    for example, expected in zip(examples, masks(7, seed=1), strict=True):
        image, mask = decode_pair(example, len(CLASSES))
        assert np.array_equal(mask, expected)
        assert image.size == mask.shape[::-1]


def test_palette_masks_are_read_by_number() -> None:
    """VOC's masks are palette images: their colours would be taken for classes."""
    mask = masks(1)[0]
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([7, 8, 9] * 256)
    picture.putdata(mask.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    example = SegmentationExample("here", sample(mask)["png"], buffer.getvalue())
    assert np.array_equal(decode_pair(example, 4)[1], mask)


def _depth_of(bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits: Pillow writes such greys only as palettes, so the header is changed."""
    rows = zlib.compress(b"".join(b"\0" + bytes(16 * bits // 8) for _ in range(16)))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _jpeg(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "JPEG")
    return buffer.getvalue()


GOOD = masks(1)[0]
BAD_MASKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "size": (lambda: png(GOOD[:8]), "the mask has 16 x 8 pixels, the image 16 x 16"),
    "number": (lambda: png(np.where(GOOD == 1, 4, GOOD).astype(np.uint8)), "pixels of 4, which is not a class number"),
    "colours": (lambda: png(np.zeros((16, 16, 3), np.uint8)), "colour type 2 with 8 bits"),
    "16 bits": (lambda: png(np.zeros((16, 16), np.uint16)), "colour type 0 with 16 bits"),
    "4 bits": (lambda: _depth_of(4), "colour type 0 with 4 bits"),
    "jpeg": (lambda: _jpeg(GOOD), "no PNG, or damaged"),
    "cut": (lambda: png(GOOD)[:-30], "no PNG, or damaged"),
    "empty": (lambda: b"", "no PNG, or damaged"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_named(kind: str) -> None:
    """A wrong mask would be measured silently, as a figure that is wrong."""
    make, message = BAD_MASKS[kind]
    with pytest.raises(BadSampleError, match=r"^here: ") as caught:
        decode_pair(SegmentationExample("here", sample(GOOD)["png"], make()), 4)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def _without(extension: str) -> Members:
    return {name: data for name, data in sample(GOOD).items() if name != extension}


def test_missing_masks_and_images_are_counted_and_named(tmp_path: Path) -> None:
    """Images without a mask would be left out of the figure, and nobody would know."""
    test = [sample(GOOD), _without("seg.png"), sample(GOOD), _without("png"), _without("seg.png"), _without("seg.png")]
    root = write_set(tmp_path / "set", [sample(GOOD)], test)
    with pytest.raises(InputError) as caught:
        open_segmentation(root)
    message = str(caught.value)
    assert "4 of 6 samples cannot be used" in message
    assert "test0001: an image without a mask (.seg.png)" in message
    assert "test0003: holds seg.png, but no image" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("classes", "change", "message"),
    [
        (None, None, "classes.txt: missing"),
        ((), None, "0 names; must be 1 to 255"),
        (tuple(map(str, range(256))), None, "256 names; must be 1 to 255"),
        (("a", "b", "a"), None, "'a' stands there twice"),
        (CLASSES, "train", "no such folder; each split has one"),
        (CLASSES, "test/00000.tar", "holds no *.tar shard"),
    ],
)
def test_a_bad_layout_is_one_line(
    classes: tuple[str, ...] | None, change: str | None, message: str, tmp_path: Path
) -> None:
    """People would get a traceback for a path that is wrong by one folder."""
    root = write_set(tmp_path / "set", [sample(GOOD)], [sample(GOOD)], classes)
    if change:
        (root / change).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError) as caught:
        open_segmentation(root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_splits_can_be_named(tmp_path: Path) -> None:
    """VOC has no test masks: its figures are taken on val."""
    root = small_set(tmp_path / "set")
    (root / "test").rename(root / "val")
    assert open_segmentation(root, test="val").test.images == 5


def test_toy_worlds_can_be_read(tmp_path: Path) -> None:
    """The tutorial's own data would not work with the evaluation."""
    settings = replace(TINY, image_size=32, dense_train=3, dense_test=2)
    make_toy_world(tmp_path / "toy", settings, workers=1)
    data = open_segmentation(tmp_path / "toy" / "dense")
    assert (data.classes[0], data.train.images, data.test.images) == ("background", 3, 2)
    found = [decode_pair(example, len(data.classes))[1] for example in read_examples(data.train)]
    assert {mask.shape for mask in found} == {(32, 32)}
    assert any(mask.any() for mask in found)


def test_camvid_is_as_it_is_described() -> None:
    """A real set would be read in part: 367 and 233 images, 11 classes, 3.6 % of the pixels void."""
    data = open_segmentation(camvid())
    assert (len(data.classes), data.train.images, data.test.images) == (11, 367, 233)
    examples = [e for split in (data.train, data.test) for e in read_examples(split)]
    found = [decode_pair(example, 11)[1] for example in examples]
    assert {mask.shape for mask in found} == {(180, 240)}
    assert 0.025 < np.mean([np.mean(mask == 255) for mask in found]) < 0.045
