"""Colour: the steps of Pillow and torchvision, drawn as often as asked for, the same for the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as by_pillow
from PIL import Image, ImageFilter
from torchvision.transforms.v2.functional import adjust_hue

from pineco.data_pipeline.images.colour import JITTER, PIECE, ColourChange, Step, change_colour, draw_change, turn_hue
from pineco.data_pipeline.images.crops import MultiCrop
from pineco.data_pipeline.randomness import Stream, generator
from tests.support.shards import natural_image


def draws(count: int = 2000, **options: Any) -> list[ColourChange]:
    chosen = MultiCrop(**options)
    return [draw_change(chosen, generator(0, Stream.AUGMENTATION, 0, n)) for n in range(count)]


def photo(height: int = 224, width: int = 200) -> np.ndarray:
    """(3, H, W) uint8 with stronger and weaker colours, greys, black and white."""
    image = natural_image(height, width).transpose(2, 0, 1).copy()
    image[:, :9, :40] = np.arange(40, dtype=np.uint8) * 6
    image[:, -9:] = image[:, -9:] // 128 * 255
    return image


def changed(image: np.ndarray, change: ColourChange) -> np.ndarray:
    before = image.copy()
    found = change_colour(image, change)
    assert np.array_equal(image, before), "the crop itself was written into"
    assert (found.shape, found.dtype) == (image.shape, np.dtype(np.uint8))
    return found.astype(int)


@pytest.mark.parametrize("amount", [0.0, 0.2, 0.7, 1.0, 1.3, 1.8])
@pytest.mark.parametrize("step", ["brightness", "contrast", "saturation"])
def test_jitter_is_that_of_pillow(step: Step, amount: float) -> None:
    """Views would be brighter or duller than those that the published models were trained on."""
    image = photo()
    found = changed(image, ColourChange(((step, amount),)))
    whole = Image.fromarray(image.transpose(1, 2, 0))
    expected = np.asarray(getattr(by_pillow, f"adjust_{step}")(whole, amount)).transpose(2, 0, 1)
    assert np.abs(found - expected).max() <= 1  # Pillow cuts what is behind the point


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.01, 0.0, 0.13, 0.2, 0.5])
@pytest.mark.parametrize("side", [50, 190])
def test_hue_is_that_of_torchvision(turn: float, side: int) -> None:
    """Colours would turn the other way, or not at all where two channels are equal."""
    image = photo(side + 12, side).astype(np.float32)
    assert side == 50 or image[0].size > PIECE  # the border between two pieces is in it
    expected = adjust_hue(torch.from_numpy(image / 255), turn).numpy() * 255
    turn_hue(image, turn)
    assert np.abs(image - expected).max() < 0.01


def test_grey_is_that_of_pillow() -> None:
    """Grey views would be too dark or too light."""
    image = photo()
    found = changed(image, ColourChange(grey=True))
    expected = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_blur_is_close_to_that_of_pillow(sigma: float) -> None:
    """Views would be sharper or softer than the recipe says, or dark at the border."""
    image = photo()
    found = changed(image, ColourChange(sigma=sigma))
    blurred = Image.fromarray(image.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(sigma))
    error = np.abs(found - np.asarray(blurred).transpose(2, 0, 1))
    assert error.mean() < 1  # Pillow's is three boxes, not quite a Gaussian
    assert np.percentile(error, 99) <= 4


def test_a_blurred_point_is_a_gaussian() -> None:
    """The two directions would be blurred differently, or by another width."""
    image = np.zeros((3, 41, 51), np.uint8)
    image[:, 20, 25] = 255
    found = np.zeros((41, 51))
    for sigma in (1.0, 2.0):
        found = changed(image, ColourChange(sigma=sigma))[0]
        rows, columns = np.mgrid[-20:21, -25:26]
        bell = np.exp(-(rows**2 + columns**2) / (2 * sigma**2))
        assert np.abs(found - 255 * bell / bell.sum()).max() < 1.01
    flat = np.full((3, 5, 3), 200, np.uint8)  # smaller than the kernel
    assert (changed(flat, ColourChange(sigma=2.0)) == 200).all()


def test_steps_follow_one_another_in_their_order() -> None:
    """The order that was drawn would make no difference."""
    image = photo()
    steps: list[tuple[Step, float]] = [("brightness", 1.7), ("saturation", 1.8), ("contrast", 0.3), ("hue", 0.2)]
    whole = changed(image, ColourChange(tuple(steps), grey=False, sigma=1.0))
    one_by_one = image
    for step in steps:
        one_by_one = change_colour(one_by_one, ColourChange((step,)))
    one_by_one = change_colour(one_by_one, ColourChange(sigma=1.0))
    assert np.abs(whole - one_by_one).max() <= 4  # each step rounds
    assert np.abs(whole - changed(image, ColourChange(tuple(steps[::-1]), sigma=1.0))).max() > 40


def test_nothing_to_change_changes_nothing() -> None:
    """Every pixel would be rounded twice."""
    image = photo()
    assert change_colour(image, ColourChange()) is image
    neutral = ColourChange((("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.0)))
    assert np.array_equal(changed(image, neutral), image)


def test_changes_come_as_often_as_asked_for() -> None:
    """Views would be grey or blurred too often, or always together."""
    found = draws()
    happens = np.array([(bool(c.jitter), c.grey, c.sigma is not None) for c in found])
    assert np.abs(happens.mean(axis=0) - (0.8, 0.2, 0.5)).max() < 0.04  # 3.5 standard deviations
    assert np.abs(np.corrcoef(happens.T) - np.eye(3)).max() < 0.08
    never = draws(200, jitter_p=0, grey_p=0, blur_p=0)
    assert set(never) == {ColourChange()}
    assert all(c.jitter and c.grey and c.sigma for c in draws(200, jitter_p=1, grey_p=1, blur_p=1))


def test_amounts_and_orders_are_those_asked_for() -> None:
    """Some strengths or orders would never come, or ones outside of the recipe."""
    found = draws(4000, brightness=0.5, contrast=1.5, jitter_p=1)
    limits = {"brightness": (0.5, 1.5), "contrast": (0, 2.5), "saturation": (0.2, 1.8), "hue": (-0.2, 0.2)}
    for step, (low, high) in limits.items():
        amounts = np.array([dict(c.jitter)[step] for c in found])  # type: ignore[index]
        near = 0.005 * (high - low)
        assert low <= amounts.min() < low + near
        assert high - near < amounts.max() <= high
        assert abs(amounts.mean() - (low + high) / 2) < 4 * near
    sigmas = np.array([c.sigma for c in found if c.sigma is not None])
    assert 0.1 <= sigmas.min() < 0.12
    assert 1.98 < sigmas.max() <= 2.0
    counts = np.unique([[JITTER.index(step) for step, _ in c.jitter] for c in found], axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert sum((counts - 4000 / 24) ** 2 / (4000 / 24)) < 49.7  # chi-square, 23 degrees of freedom, p = 0.001


def test_one_setting_does_not_change_what_the_others_draw() -> None:
    """An ablation without blur would see other jitter, too."""
    assert [c.jitter for c in draws(100, blur_p=0, grey_p=1)] == [c.jitter for c in draws(100)]
    assert [c.sigma for c in draws(100, jitter_p=0)] == [c.sigma for c in draws(100)]
