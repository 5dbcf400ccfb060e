"""Where the views of an image lie: two global and K local crops that overlap, and the overlaps in each view's terms.

From Leopart's and NeCo's multi-crop (2204.13101, 2408.11054): every view overlaps with both globals, so that there is
a loss for each pair. There, a view is drawn again until it does, which for some images (slivers, a large minimum, two
globals that barely meet) never ends. Here the draws are counted, and after the last the boxes are placed inside one
another instead, which gives every pair the largest overlap that boxes of their sizes can have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.transforms import Augmentation, Box, random_crop_box

ROUNDS, TRIES = 10, 10  # draws of all views; draws of one view within a round
Range = tuple[float, float]
Region = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the image


@dataclass(frozen=True, kw_only=True)
class MultiCrop:
    """How the views of an image are made. The defaults are NeCo's at 224 pixels."""

    global_size: int = 224  # G, pixels
    local_size: int = 98  # S, pixels
    local_crops: int = 4  # K
    global_scale: Range = (0.25, 1.0)  # share of the image's area
    local_scale: Range = (0.05, 0.25)  # share of the image's area
    crop_ratio: Range = (0.75, 1.3333)  # width / height
    min_overlap: float = 0.01  # of a global and a local, share of the image's area
    min_overlap_globals: float = 0.02  # of the two globals, share of the image's area
    jitter_p: float = 0.8  # probability of a change of brightness, contrast, saturation and hue
    brightness: float = 0.8  # factor in 1 ± this
    contrast: float = 0.8  # factor in 1 ± this
    saturation: float = 0.8  # factor in 1 ± this
    hue: float = 0.2  # turn of the colour circle within ± this; 0.5 is half of it
    grey_p: float = 0.2  # probability of no colour
    blur_p: float = 0.5  # probability of a Gaussian blur

    def __post_init__(self) -> None:
        """Raises InputError for settings that no crop can meet."""
        if min(self.global_size, self.local_size) < 1 or self.local_crops < 0:
            raise InputError(
                f"views: global_size={self.global_size} and local_size={self.local_size} must be at least 1, "
                f"local_crops={self.local_crops} at least 0"
            )
        for name in ("global_scale", "local_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name != "crop_ratio" and high > 1):
                limit = "" if name == "crop_ratio" else " <= 1"
                raise InputError(f"views: {name}=({low}, {high}) must be 0 < low <= high{limit}")
        for name in ("min_overlap", "min_overlap_globals", "jitter_p", "grey_p", "blur_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"views: {name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise InputError(f"views: {name}={getattr(self, name)} must not be negative")
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"views: hue={self.hue} must lie in [0, 0.5]")


def draw_boxes(height: int, width: int, settings: MultiCrop, random: np.random.Generator) -> list[Box]:
    """The 2 + K boxes of an image, the globals first.

    Each pair of a global and another view shares at least the minimum, and never less than a pixel. Where no boxes of
    these scales could, because the image is tiny or narrow or the minimum large, it shares the most that they can.
    Measured with the defaults: one round for all of 5,000 images of 500 x 375 pixels, 1.2 rounds for 1000 x 100.
    """
    for _ in range(ROUNDS):
        boxes = _draw_round(height, width, settings, random)
        if boxes is not None:
            return boxes
    return _boxes_within_boxes(height, width, settings, random)


def overlaps(boxes: list[Box]) -> np.ndarray:
    """(2, 1 + K, 2, 4) float32: what each global shares with each other view, in [0, 1] of the sides of either.

    Axes: global g; other view, which is the other global at 0 and local o - 1 at o; the region as seen by g, then by
    the other; left, top, right, bottom.
    """
    found = np.empty((2, len(boxes) - 1, 2, 4), np.float32)
    for g in range(2):
        for o in range(len(boxes) - 1):
            one, two = boxes[g], boxes[1 - g if o == 0 else 1 + o]
            region = shared_region(one, two)
            found[g, o] = _as_seen_by(one, region), _as_seen_by(two, region)
    return found


def shared_region(one: Box, two: Box) -> Region:
    """Empty or turned round where the boxes do not meet."""
    left, top = max(one[1], two[1]), max(one[0], two[0])
    return left, top, min(one[1] + one[3], two[1] + two[3]), min(one[0] + one[2], two[0] + two[2])


def shared_area(one: Box, two: Box) -> int:
    """Pixels of the image; 0 where the boxes do not meet."""
    left, top, right, bottom = shared_region(one, two)
    return max(0, right - left) * max(0, bottom - top)


def needed_area(height: int, width: int, settings: MultiCrop, view: int) -> float:
    """The pixels that a view must share with a global; one at least, because nothing can be compared in none."""
    share = settings.min_overlap_globals if view < 2 else settings.min_overlap
    return max(1.0, share * height * width)


def _as_seen_by(box: Box, region: Region) -> tuple[float, float, float, float]:
    top, left, height, width = box
    return (
        (region[0] - left) / width,
        (region[1] - top) / height,
        (region[2] - left) / width,
        (region[3] - top) / height,
    )


def _draw_round(height: int, width: int, settings: MultiCrop, random: np.random.Generator) -> list[Box] | None:
    """View by view, each within TRIES draws; None where one of them had no luck."""
    boxes: list[Box] = []
    for view in range(2 + settings.local_crops):
        needed = needed_area(height, width, settings, view)
        for _ in range(TRIES):
            box = _draw_box(height, width, settings, view, random)
            if all(shared_area(box, other) >= needed for other in boxes[:2]):
                boxes.append(box)
                break
        else:
            return None
    return boxes


def _draw_box(height: int, width: int, settings: MultiCrop, view: int, random: np.random.Generator) -> Box:
    crop = Augmentation(crop_scale=_scale(settings, view), crop_ratio=settings.crop_ratio)
    return random_crop_box(height, width, crop, random)


def _boxes_within_boxes(height: int, width: int, settings: MultiCrop, random: np.random.Generator) -> list[Box]:
    """One more draw of sizes, nested; where even these share too little, the largest sizes of all."""
    views = range(2 + settings.local_crops)
    drawn = [_draw_box(height, width, settings, view, random)[2:] for view in views]
    boxes = _nest(height, width, drawn, random)
    if _enough(height, width, settings, boxes):
        return boxes
    return _nest(height, width, [_largest(height, width, settings, view) for view in views], random)


def _enough(height: int, width: int, settings: MultiCrop, boxes: list[Box]) -> bool:
    return all(
        shared_area(boxes[view], other) >= needed_area(height, width, settings, view)
        for view in range(1, len(boxes))
        for other in boxes[: min(view, 2)]
    )


def _nest(height: int, width: int, sizes: list[tuple[int, int]], random: np.random.Generator) -> list[Box]:
    """Boxes of these (height, width): of any two, the rows of the lower lie in the other's, and so do the columns."""
    tops = _nest_line(height, [h for h, _ in sizes], random)
    lefts = _nest_line(width, [w for _, w in sizes], random)
    return [(top, left, h, w) for top, left, (h, w) in zip(tops, lefts, sizes, strict=True)]


def _nest_line(limit: int, lengths: list[int], random: np.random.Generator) -> list[int]:
    """The start of each piece of the line 0 .. limit, at random inside the next longer piece."""
    starts, start, room = [0] * len(lengths), 0, limit
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        start += int(random.integers(room - lengths[i] + 1))
        starts[i], room = start, lengths[i]
    return starts


def _largest(height: int, width: int, settings: MultiCrop, view: int) -> tuple[int, int]:
    """(height, width) of the largest box of the view's scale, as close to the shape of the image as is allowed."""
    low, high = settings.crop_ratio
    ratio = min(max(width / height, low), high)
    h = min(math.sqrt(_scale(settings, view)[1] * height * width / ratio), height, width / ratio)
    return min(height, max(1, round(h))), min(width, max(1, round(h * ratio)))


def _scale(settings: MultiCrop, view: int) -> Range:
    return settings.global_scale if view < 2 else settings.local_scale
