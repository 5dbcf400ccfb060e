"""Crops, resizing, flips: Pillow's pixels, boxes inside the image, the same pixels for the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pineco.data_pipeline.images.transforms import (
    Augmentation,
    Box,
    augment,
    random_crop_box,
    resize_crop,
    resize_square,
    to_tensor,
)
from pineco.data_pipeline.randomness import Stream, generator
from tests.support.shards import natural_image


def random(sample: int = 0, epoch: int = 0, seed: int = 0) -> np.random.Generator:
    return generator(seed, Stream.AUGMENTATION, epoch, sample)


def by_pillow(pixels: np.ndarray, box: Box, *sizes: tuple[int, int]) -> np.ndarray:
    """The box resized by Pillow to each of these (width, height) in turn."""
    top, left, height, width = box
    image = Image.fromarray(pixels[top : top + height, left : left + width])
    for size in sizes:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image).astype(int)


BOXES = pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (375, 500, (0, 0, 375, 500)),
        (375, 500, (7, 11, 300, 444)),
        (500, 375, (0, 0, 500, 375)),
        (768, 1024, (0, 0, 768, 1024)),
        (500, 333, (3, 0, 490, 300)),
        (97, 31, (0, 0, 97, 31)),
        (150, 170, (1, 2, 140, 160)),
    ],
)


@BOXES
def test_resize_is_that_of_pillow(height: int, width: int, box: Box) -> None:
    """Images would be smoother or sharper than those other encoders are trained and judged on.

    Pillow is asked for one pass at a time, because it begins with the columns where that is less work; torch
    always begins with the rows.
    """
    pixels = natural_image(height, width)
    ours = resize_crop(to_tensor(pixels), box, 224).permute(1, 2, 0).numpy()
    error = np.abs(ours - by_pillow(pixels, box, (224, box[2]), (224, 224)))
    assert error.max() <= 2  # measured: 1, and 2 where the image is enlarged
    assert error.mean() < 0.01  # measured: 0.004


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (768, 1024), (1024, 768)])
def test_resize_is_within_2_of_pillow_in_one_call(height: int, width: int) -> None:
    """Photographs of the usual shapes would not be what open_clip makes of them."""
    pixels, box = natural_image(height, width), (0, 0, height, width)
    ours = resize_crop(to_tensor(pixels), box, 224).permute(1, 2, 0).numpy()
    assert np.abs(ours - by_pillow(pixels, box, (224, 224))).max() <= 2


def test_a_box_of_the_right_size_is_cut_out_as_it_is() -> None:
    """Images stored at the size of the encoder would be resampled, or moved by a pixel."""
    pixels = natural_image(50, 60)
    crop = resize_crop(to_tensor(pixels), (3, 5, 32, 32), 32)
    assert np.array_equal(crop.permute(1, 2, 0), pixels[3:35, 5:37])


def test_resize_square_keeps_the_whole_image() -> None:
    """Triplets would lose their margins, which people saw when they judged."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = (255, 0, 9)
    image = resize_square(to_tensor(pixels), 20)
    assert (image.shape, image.dtype) == ((3, 20, 20), torch.uint8)
    assert image[:, 10, 0].tolist() == [255, 0, 9]
    assert image[:, 10, -1].tolist() == [0, 0, 0]
    assert image[0, :, :8].eq(255).all()
    assert image[0, :, 12:].eq(0).all()


SHARES = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: (min(pair), max(pair)))
RATIOS = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(lambda pair: (min(pair), max(pair)))


@given(st.integers(1, 3000), st.integers(1, 3000), SHARES, RATIOS, st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_crops_lie_inside_the_image(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], sample: int
) -> None:
    """A crop would be empty or reach past the border for odd sizes of images."""
    chosen = Augmentation(crop_scale=scale, crop_ratio=ratio)
    top, left, h, w = random_crop_box(height, width, chosen, random(sample))
    assert 0 <= top < top + h <= height
    assert 0 <= left < left + w <= width


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("ratio", [(0.1, 0.2), (3 / 4, 4 / 3), (5, 9)])
def test_slivers_have_a_crop(height: int, width: int, ratio: tuple[float, float]) -> None:
    """An image one pixel high would stop a run."""
    pixels = np.full((height, width, 3), 77, np.uint8)
    assert augment(to_tensor(pixels), 8, Augmentation(crop_ratio=ratio), random()).eq(77).all()


def test_crops_have_the_area_and_shape_asked_for() -> None:
    """The encoder would see smaller or longer parts of images than the recipe says."""
    chosen = Augmentation(crop_scale=(0.25, 0.5), crop_ratio=(0.5, 2))
    boxes = np.array([random_crop_box(1000, 1200, chosen, random(sample)) for sample in range(2000)])
    top, left, h, w = boxes.T
    share, ratio = h * w / 1.2e6, w / h
    assert (share.min(), ratio.min()) > (0.249, 0.5)
    assert share.min() < 0.255
    assert 0.495 < share.max() < 0.501
    assert 0.499 < ratio.min() < 0.51
    assert 1.96 < ratio.max() < 2.005
    assert abs(share.mean() - 0.375) < 0.005
    assert abs(np.log(ratio).mean()) < 0.03
    assert abs((top / (1000 - h)).mean() - 0.5) < 0.02
    assert abs((left / (1200 - w)).mean() - 0.5) < 0.02


def test_the_same_numbers_give_the_same_pixels() -> None:
    """A resumed run, or one with more workers, would see other pixels."""
    image, chosen = to_tensor(natural_image(90, 120)), Augmentation(crop_scale=(0.3, 1), flip=0.5)
    one = augment(image, 32, chosen, random(5, 2, 1))
    assert torch.equal(one, augment(image, 32, chosen, random(5, 2, 1)))
    for other in (random(6, 2, 1), random(5, 3, 1), random(5, 2, 2)):
        assert not torch.equal(one, augment(image, 32, chosen, other))


def test_flips() -> None:
    """Images would be turned upside down, always or never mirrored."""
    image, whole = to_tensor(natural_image(32, 32)), {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    assert torch.equal(augment(image, 32, Augmentation(**whole, flip=0), random()), image)
    assert torch.equal(augment(image, 32, Augmentation(**whole, flip=1), random()), image.flip(2))
    half = [augment(image, 32, Augmentation(**whole, flip=0.5), random(i)).equal(image) for i in range(1000)]
    assert abs(sum(half) - 500) < 50  # three standard deviations
