"""Boxes of views: inside the image, overlapping as asked for or as far as can be, found in bounded time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images import crops
from pineco.data_pipeline.images.crops import ROUNDS, TRIES, MultiCrop, draw_boxes, overlaps, shared_area
from pineco.data_pipeline.images.transforms import Box
from pineco.data_pipeline.randomness import Stream, generator

SIDES = st.one_of(st.integers(1, 12), st.integers(1, 2000))
SCALES = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: (min(pair), max(pair)))
RATIOS = st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(lambda pair: (min(pair), max(pair)))
SHARES = st.one_of(st.floats(0, 0.05), st.floats(0, 1))
SETTINGS = st.builds(
    MultiCrop,
    local_crops=st.integers(0, 5),
    global_scale=SCALES,
    local_scale=SCALES,
    crop_ratio=RATIOS,
    min_overlap=SHARES,
    min_overlap_globals=SHARES,
)


def random(sample: int = 0, epoch: int = 0, seed: int = 0) -> np.random.Generator:
    return generator(seed, Stream.AUGMENTATION, epoch, sample)


def check_inside(boxes: list[Box], height: int, width: int) -> None:
    for top, left, h, w in boxes:
        assert 0 <= top < top + h <= height
        assert 0 <= left < left + w <= width


def pairs(boxes: list[Box]) -> list[tuple[Box, Box, int]]:
    """(global, other view, number of the later of the two)."""
    return [(boxes[g], boxes[o], o) for g, o in combinations(range(len(boxes)), 2) if g < 2]


def largest_sides(height: int, width: int, scale: float, ratios: tuple[float, float]) -> tuple[float, float]:
    """(height, width) of the largest box of at most this share of the image, found by trying ratios."""
    tried = np.append(np.geomspace(*ratios, 200), np.clip(width / height, *ratios))
    h = np.minimum(np.sqrt(scale * height * width / tried), np.minimum(height, width / tried))
    areas = h * h * tried
    alike = np.flatnonzero(areas >= areas.max() * (1 - 1e-9))
    best = alike[np.argmin(np.abs(np.log(tried[alike] * height / width)))]  # the closest to the image's shape
    return float(h[best]), float(h[best] * tried[best])


@given(SIDES, SIDES, SETTINGS, st.integers(0, 2**32))
@example(1, 1, MultiCrop(), 0)
@example(2, 3, MultiCrop(), 0)
@example(3, 2000, MultiCrop(), 0)
@example(375, 500, MultiCrop(min_overlap=1, min_overlap_globals=1), 0)
@settings(max_examples=400, deadline=None)
def test_pairs_overlap_as_asked_for_or_as_far_as_can_be(height: int, width: int, chosen: MultiCrop, n: int) -> None:
    """ROI-align would be asked for nothing, or for less than the recipe says, for some image sizes."""
    boxes = draw_boxes(height, width, chosen, random(n))
    assert len(boxes) == 2 + chosen.local_crops
    check_inside(boxes, height, width)
    most_global = largest_sides(height, width, chosen.global_scale[1], chosen.crop_ratio)
    most_local = largest_sides(height, width, chosen.local_scale[1], chosen.crop_ratio)
    for one, two, later in pairs(boxes):
        share = chosen.min_overlap_globals if later == 1 else chosen.min_overlap
        most = most_global if later == 1 else np.minimum(most_global, most_local)
        possible = np.prod(np.maximum(1.0, np.subtract(most, 0.501)))  # boxes are of whole pixels
        assert shared_area(one, two) >= max(1.0, min(share * height * width, float(possible)))


@given(SIDES, SIDES, SETTINGS, st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_the_fallback_by_itself_keeps_the_promise(height: int, width: int, chosen: MultiCrop, n: int) -> None:
    """The rare images that need it would overlap too little, and no test that draws boxes would notice."""
    boxes = crops._boxes_within_boxes(height, width, chosen, random(n))
    check_inside(boxes, height, width)
    for one, two, _ in pairs(boxes):  # nested along both axes, so that no placement shares more
        assert shared_area(one, two) == min(one[2], two[2]) * min(one[3], two[3])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (40, 1000), (375, 500), (2000, 3)])
@pytest.mark.parametrize("needed", [0.01, 0.6, 1.0])
def test_the_number_of_draws_is_bounded(
    height: int, width: int, needed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image would hold up a run for ever, as in the original."""
    drawn = count_calls(monkeypatch, "random_crop_box")
    chosen = MultiCrop(min_overlap=needed, min_overlap_globals=needed)
    for n in range(20):
        drawn.clear()
        check_inside(draw_boxes(height, width, chosen, random(n)), height, width)
        assert len(drawn) <= 6 * (ROUNDS * TRIES + 1)


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Grows by one with each call of this function of `crops`."""
    calls: list[int] = []
    real: Callable[..., Any] = getattr(crops, name)

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(crops, name, counted)
    return calls


def test_the_fallback_is_for_odd_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs would have views inside one another instead of the method's."""
    fallbacks = count_calls(monkeypatch, "_boxes_within_boxes")
    for n in range(500):
        draw_boxes(375, 500, MultiCrop(), random(n))
    assert not fallbacks
    draw_boxes(375, 500, MultiCrop(min_overlap=0.3), random())  # more than a local has
    assert len(fallbacks) == 1


def test_views_have_the_areas_and_shapes_asked_for() -> None:
    """The globals would be locals, or the other way round."""
    boxes = np.array([draw_boxes(900, 1200, MultiCrop(), random(n)) for n in range(500)])
    assert boxes.shape == (500, 6, 4)
    share = boxes[:, :, 2] * boxes[:, :, 3] / (900 * 1200)
    ratio = boxes[:, :, 3] / boxes[:, :, 2]
    for views, (low, high) in ((share[:, :2], (0.25, 1)), (share[:, 2:], (0.05, 0.25)), (ratio, (0.75, 1.3333))):
        assert low - 0.003 < views.min() < low + 0.03
        assert high - 0.06 < views.max() < high + 0.003
    assert len(np.unique(boxes[:, :, 1])) > 200  # places differ


@given(SIDES, SIDES, SETTINGS, st.integers(0, 2**32), st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=200, deadline=None)
def test_both_views_mean_the_same_place(
    height: int, width: int, chosen: MultiCrop, n: int, point: tuple[float, float]
) -> None:
    """The loss would compare patches of different places of the image."""
    boxes = draw_boxes(height, width, chosen, random(n))
    found = overlaps(boxes)
    assert (found.shape, found.dtype) == ((2, 1 + chosen.local_crops, 2, 4), np.dtype(np.float32))
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[..., 2:] > found[..., :2]).all()
    for g in range(2):
        for o in range(1 + chosen.local_crops):
            views = boxes[g], boxes[(1, 0)[g] if o == 0 else 2 + (o - 1)]
            places = [in_image(view, region, point) for view, region in zip(views, found[g, o], strict=True)]
            assert np.abs(places[0] - places[1]).max() <= 1e-5 * max(height, width)


def in_image(view: Box, region: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """(x, y) in pixels of the image; point: (x, y) in [0, 1] of the region of the view."""
    top, left, height, width = view
    x, y = region[:2] + np.array(point) * (region[2:] - region[:2])
    return np.array([left + x * width, top + y * height])


def test_overlaps_by_hand() -> None:
    """Rows and columns, or the two globals, would be exchanged, which the other tests cannot see."""
    found = overlaps([(0, 0, 100, 200), (50, 100, 100, 200), (40, 100, 20, 50)])
    assert found[0, 0].tolist() == [[0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5]]
    assert found[1, 0].tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    assert found[0, 1] == pytest.approx(np.array([[0.5, 0.4, 0.75, 0.6], [0, 0, 1, 1]]))
    assert found[1, 1] == pytest.approx(np.array([[0, 0, 0.25, 0.1], [0, 0.5, 1, 1]]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"global_size": 0}, "global_size=0"),
        ({"local_crops": -1}, "local_crops=-1"),
        ({"global_scale": (0.5, 1.1)}, r"global_scale=\(0.5, 1.1\) must be 0 < low <= high <= 1"),
        ({"local_scale": (0.0, 0.5)}, r"local_scale=\(0.0, 0.5\)"),
        ({"crop_ratio": (2, 1)}, r"crop_ratio=\(2, 1\)"),
        ({"min_overlap": 1.5}, "min_overlap=1.5"),
        ({"blur_p": -0.1}, "blur_p=-0.1"),
        ({"contrast": -1}, "contrast=-1"),
        ({"hue": 0.6}, "hue=0.6"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_nothing_can_meet_are_refused(wrong: dict[str, Any], message: str) -> None:
    """A slip in a recipe would end a run hours later, or change the method in silence."""
    with pytest.raises(InputError, match=message):
        MultiCrop(**wrong)
