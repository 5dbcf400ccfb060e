"""A probe as a picture: heat maps of CKA and RSA between models, and their layers against the first model's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_BACK, _TEXT, _SOFT, _GRID = "#ffffff", "#1b2129", "#556070", "#e3e3e3"
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b8860b",
    "#56b4e9",
    "#444444",
    "#7b3fa0",
)  # as pineco.evals.report.curve's
_GAP, _LINE, _FONT, _SMALL = 40, 50, 30, 21  # pixels; drawn at twice the size, then halved, which smooths lines


class _Sheet:
    """A white picture of twice its size."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), _BACK)
        self.pen = ImageDraw.Draw(self.image)
        self._fonts = {size: ImageFont.load_default(size) for size in (_FONT, _SMALL)}

    def say(self, x: float, y: float, text: str, colour: str = _TEXT, anchor: str = "la", size: int = _FONT) -> None:
        font = self._fonts[size]
        while anchor == "la" and len(text) > 2 and x + font.getlength(text) > self.image.width - _GAP:
            text = f"…{text[2:]}"  # paths differ at their end
        self.pen.text((x, y), text, colour, font, anchor)


def draw(report: Mapping[str, Any]) -> Image.Image:
    """Heat maps of CKA and RSA with their numbers, and each model's layers against the first's."""
    labels, layers = [one["label"] for one in report["models"]], report["layers"]
    cell = max(100, min(200, 880 // len(labels)))
    panel = max(cell * len(labels) + _LINE, 760)
    top = 2 * _GAP + _LINE * (1 + len(labels))
    foot = top + 2 * _LINE + cell * len(labels) + _GAP
    sheet = _Sheet(2 * panel + 3 * _GAP, foot + (820 if layers else 0))
    sheet.say(_GAP, _GAP, f"{report['images']:,} images of {report['data']}", _SOFT)
    for number, label in enumerate(labels):
        y, colour = _GAP + _LINE * (number + 1), _COLOURS[(number - 1) % len(_COLOURS)]
        if layers and number:
            sheet.pen.line((_GAP + 56, y + 18, _GAP + 116, y + 18), colour, 6 if number <= len(_COLOURS) else 2)
        sheet.say(_GAP, y, str(number + 1), _SOFT)
        sheet.say(_GAP + (136 if layers else 56), y, label)
    _heat(sheet, _GAP, top, cell, "linear CKA, debiased", report["cka"])
    _heat(sheet, panel + 2 * _GAP, top, cell, f"RSA, {report['rsa']['images']:,} images", report["rsa"])
    if layers:
        sheet.say(_GAP, foot, f"linear CKA of each layer ({layers['tokens']}) to that of model 1; bars: 95 %")
        _plot(sheet, (_GAP + 80, foot + 90, sheet.image.width - _GAP, foot + 700), list(layers["curves"].values()))
    return sheet.image.reduce(2)


def _heat(sheet: _Sheet, left: int, top: int, cell: int, title: str, table: Mapping[str, Any]) -> None:
    sheet.say(left, top, title)
    for i, row in enumerate(zip(table["values"], table["low"], table["high"], strict=True)):
        at = (i + 0.5) * cell
        sheet.say(left + _LINE + at, top + 1.5 * _LINE, str(i + 1), _SOFT, "mm")
        sheet.say(left + _LINE / 2, top + 2 * _LINE + at, str(i + 1), _SOFT, "mm")
        for j, (value, low, high) in enumerate(zip(*row, strict=True)):
            x, y = left + _LINE + j * cell, top + 2 * _LINE + i * cell
            sheet.pen.rectangle((x, y, x + cell - 4, y + cell - 4), _shade(value or 0.0))
            colour, sure = _BACK if abs(value or 0.0) > 0.55 else _TEXT, i != j and cell >= 150 and low is not None
            sheet.say(x + cell / 2, y + cell / 2 - 16 * sure, "-" if value is None else f"{value:.2f}", colour, "mm")
            if sure:
                sheet.say(x + cell / 2, y + cell / 2 + 22, f"{low:.2f} to {high:.2f}", colour, "mm", _SMALL)


def _shade(value: float) -> tuple[int, ...]:
    """White at 0, blue at 1, orange at -1."""
    end = (0, 114, 178) if value >= 0 else (213, 94, 0)
    return tuple(round(255 + (channel - 255) * min(1.0, abs(value))) for channel in end)


def _plot(sheet: _Sheet, box: tuple[int, int, int, int], curves: Sequence[Mapping[str, Any]]) -> None:
    left, top, right, foot = box
    depth = 1 + max(place for curve in curves for place in curve["of_first"])
    lowest = math.floor(5 * min(0.0, *(v for c in curves for v in (*c["cka"], *c["low"]) if v is not None)))

    def at(layer: float, value: float) -> tuple[float, float]:
        share = (value - lowest / 5) / (1 - lowest / 5)
        return left + (right - left) * (layer + 0.5) / depth, foot - (foot - top) * share

    for tick in range(lowest, 6):
        y = at(0, tick / 5)[1]
        sheet.pen.line((left, y, right, y), _GRID if tick else _SOFT, 2)
        sheet.say(left - 16, y, f"{tick / 5:.1f}", _SOFT, "rm")
    for layer in range(0, depth, 1 + depth // 30):
        sheet.say(at(layer, 0)[0], foot + 34, str(layer + 1), _SOFT, "mm")
    for number, curve in enumerate(curves):
        colour, aside = _COLOURS[number % len(_COLOURS)], 0.05 * (number - (len(curves) - 1) / 2)
        scale = (depth - 1) / max(1, len(curve["cka"]) - 1)
        values = zip(curve["cka"], curve["low"], curve["high"], strict=True)
        known = [(layer * scale + aside, *v) for layer, v in enumerate(values) if None not in v]
        sheet.pen.line([at(x, value) for x, value, _, _ in known], colour, 5 if number < len(_COLOURS) else 2)
        for x, value, low, high in known:
            sheet.pen.line((at(x, low), at(x, high)), colour, 3)
            sheet.pen.circle(at(x, value), 6, colour)
