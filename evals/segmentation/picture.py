"""Test images with truth and prediction side by side, as one picture."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pineco.evals.data.segmentation import VOID
from pineco.evals.report.formats import percent

_WIDTH, _GAP, _LINE, _FONT = 320, 12, 24, 15  # pixels
_BACK, _TEXT, _SOFT = (255, 255, 255), (27, 33, 41), (85, 96, 112)
_UNKNOWN = (0, 0, 0)
_GOLDEN = 0.618033988749895  # of the circle: each next hue is far from all before it


@dataclass(frozen=True)
class Shown:
    """One row."""

    title: str
    image: Image.Image
    truth: np.ndarray  # (H, W) uint8, VOID is drawn black
    prediction: np.ndarray  # (H', W') uint8


def colours(classes: int) -> list[tuple[int, int, int]]:
    """One a class, told apart by hue, and by lightness where hues come close."""
    found = []
    for number in range(classes):
        value, saturation = ((0.9, 0.65), (0.65, 0.8), (0.97, 0.4))[number % 3]
        red, green, blue = colorsys.hsv_to_rgb((0.58 + number * _GOLDEN) % 1, saturation, value)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return found


def paint(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """The (H, W) mask in colours, void black."""
    table = np.full((VOID + 1, 3), _UNKNOWN, np.uint8)
    table[: len(palette)] = palette
    return Image.fromarray(table[mask])


def draw(title: str, rows: Sequence[Shown], class_iou: Mapping[str, float | None]) -> Image.Image:
    """The legend names the classes with their IoU, in order; a prediction is stretched to its image's shape."""
    palette = colours(len(class_iou))
    columns = [_WIDTH * place + _GAP * (place + 1) for place in range(3)]
    legend = [f"{name}  {percent(iou)}" for name, iou in class_iou.items()] + ["void"]
    per_line = 4
    heights = [max(1, round(_WIDTH * row.image.height / row.image.width)) for row in rows]
    top = _GAP + 2 * _LINE + _LINE * -(-len(legend) // per_line) + _GAP
    sheet = Image.new("RGB", (3 * _WIDTH + 4 * _GAP, top + sum(height + _LINE + _GAP for height in heights)), _BACK)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    pen.text((_GAP, _GAP), _fitting(title, font, sheet.width - 2 * _GAP), _TEXT, font)
    pen.text((_GAP, _GAP + _LINE), "image | truth | prediction; share: IoU over all test images", _SOFT, font)
    for number, (name, colour) in enumerate(zip(legend, [*palette, _UNKNOWN], strict=True)):
        step = (sheet.width - 2 * _GAP) // per_line
        x, y = _GAP + number % per_line * step, _GAP + (2 + number // per_line) * _LINE
        pen.rectangle((x, y + 2, x + 14, y + 16), fill=colour, outline=_SOFT)
        pen.text((x + 20, y), _fitting(name, font, step - 26), _TEXT, font)
    for row, height in zip(rows, heights, strict=True):
        pen.text((_GAP, top), _fitting(row.title, font, sheet.width - 2 * _GAP), _SOFT, font)
        size = (_WIDTH, height)
        sheet.paste(row.image.resize(size, Image.Resampling.BICUBIC), (columns[0], top + _LINE))
        for column, mask in zip(columns[1:], (row.truth, row.prediction), strict=True):
            sheet.paste(paint(mask, palette).resize(size, Image.Resampling.NEAREST), (column, top + _LINE))
        top += height + _LINE + _GAP
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that is too long, since paths differ there."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"
