"""2AFC of models with its limits, and their agreement with the majority by its share, as one SVG. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pineco.evals.report.formats import nice_ticks, percent
from pineco.evals.report.page.html import Html, tag
from pineco.evals.triplets.choices import CHANCE, Figure, ShareBin

_WIDTH, _TOP, _BOTTOM, _ROW = 1000, 84, 64, 34  # pixels
_PANEL = 330  # height of the curve's
_LEFT = (200, 470)  # edges of the first panel, behind its labels
_RIGHT = (610, 980)  # of the second
_COLOURS = ("#0072b2", "#d55e00")  # after Okabe and Ito: told apart with any colour vision
_PEOPLE, _SOFT, _GRID = "#009e73", "#666", "#e3e3e3"
_LONGEST = 26  # characters of a label that fit


@dataclass(frozen=True)
class Shown:
    """One model on one split."""

    number: int  # of the model: 0, or 1 for the one that it is compared with
    model: str
    split: str
    figures: dict[str, Figure]
    by_share: tuple[ShareBin, ...]


def draw(title: str, rows: Sequence[Shown]) -> str:
    """An SVG document: a dot with its interval a row; the curves are those of the first split."""
    height = _TOP + max(_PANEL, _ROW * len(rows)) + _BOTTOM
    return tag(
        "svg",
        tag("title", title),
        tag("rect", width=_WIDTH, height=height, fill="#fff"),
        _text(24, 32, _end(title, 90), size=17, weight="bold"),
        _scores(rows),
        _curves([row for row in rows if row.split == rows[0].split]),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {height}",
        width=_WIDTH,
        height=height,
        role="img",
        font_size=13,
        fill="#222",
        font_family="Helvetica, Arial, sans-serif",
    )


def _scores(rows: Sequence[Shown]) -> list[Html]:
    lowest = min(CHANCE, *(row.figures["two_afc"].interval[0] for row in rows))
    first, bottom = math.floor(10 * lowest + 1e-9) / 10 - 0.05, _TOP + _ROW * len(rows)

    def x(share: float) -> float:
        return _LEFT[0] + (_LEFT[1] - _LEFT[0]) * (share - first) / (1 - first)

    parts = [_text(_LEFT[0], _TOP - 16, "2AFC, 95 % interval", colour=_SOFT, size=12)]
    for tenth in range(math.ceil(10 * first - 1e-9), 11):
        parts += [_line(x(tenth / 10), _TOP, x(tenth / 10), bottom, _GRID), _tick_x(x(tenth / 10), bottom, tenth / 10)]
    parts += [_line(x(CHANCE), _TOP, x(CHANCE), bottom, "#222", dash="5 5")]
    for number, row in enumerate(rows):
        parts += _score(row, x, _TOP + _ROW * (number + 0.5), _COLOURS[row.number])
    notes = ["dashed: chance", "green: best possible", "green dots: majority of the others, on a voter left out"]
    for number, note in enumerate(notes):
        parts.append(_text(_LEFT[0], bottom + 44 + 18 * number, note, colour=_SOFT if not number else _PEOPLE, size=12))
    return parts


def _score(row: Shown, x: Callable[[float], float], y: float, colour: str) -> list[Html]:
    figure, parts = row.figures["two_afc"], []
    for name, dash in (("best_choice", None), ("held_out_voter", "2 3")):
        if name in row.figures:
            place = x(row.figures[name].value)
            parts.append(_line(place, y - _ROW / 2, place, y + _ROW / 2, _PEOPLE, dash=dash, width=2))
    low, high = figure.interval
    parts.append(_line(x(low), y, x(high), y, colour, width=3))
    parts.append(tag("circle", cx=f"{x(figure.value):.1f}", cy=f"{y:.1f}", r=5, fill=colour))
    parts.append(_text(_LEFT[0] - 10, y - 2, _end(row.model, _LONGEST), anchor="end"))
    split = f"{row.split}, baseline" if row.number else row.split
    parts.append(_text(_LEFT[0] - 10, y + 12, split, anchor="end", colour=_SOFT, size=11))
    parts.append(_text(_LEFT[1] + 12, y + 4, percent(figure.value)))
    return parts


def _curves(rows: Sequence[Shown]) -> list[Html]:
    left, right, bottom = *_RIGHT, _TOP + _PANEL

    def x(share: float) -> float:
        return left + (right - left) * (share - 0.5) / 0.5

    def y(share: float) -> float:
        return bottom - _PANEL * share

    parts = [_text(left, _TOP - 16, f"agreement with the majority, {rows[0].split}", colour=_SOFT, size=12)]
    for share in nice_ticks(1.0, 5):
        parts += [_line(left, y(share), right, y(share), _GRID if share else "#222")]
        parts.append(_text(left - 8, y(share) + 4, f"{100 * share:.0f}%", anchor="end"))
    parts += [_tick_x(x(tenth / 10), bottom, tenth / 10) for tenth in range(5, 11)]
    parts.append(_text((left + right) / 2, bottom + 44, "share of people in the majority", anchor="middle"))
    parts.append(_line(left, y(CHANCE), right, y(CHANCE), "#222", dash="5 5"))
    parts.append(_line(x(0.5), y(0.5), x(1), y(1), _PEOPLE, dash="2 3", width=2))
    parts.append(_text(x(0.98), y(0.98) + 40, "one voter", anchor="end", colour=_PEOPLE, size=12))
    for row in rows:
        colour = _COLOURS[row.number]
        places = [(x(one.share), one.agreement) for one in row.by_share]
        joined = " ".join(f"{place:.1f},{y(figure.value):.1f}" for place, figure in places)
        parts.append(tag("polyline", points=joined, fill="none", stroke=colour, stroke_width=2))
        for place, figure in places:
            low, high = figure.interval
            shifted = place + 3 * row.number  # or the intervals of two models would lie on each other
            parts.append(_line(shifted, y(low), shifted, y(high), colour, width=1.5))
            parts.append(tag("circle", cx=f"{place:.1f}", cy=f"{y(figure.value):.1f}", r=4, fill=colour))
    return parts


def _tick_x(x: float, bottom: float, share: float) -> Html:
    return _text(x, bottom + 18, f"{100 * share:.0f}%", anchor="middle", size=11)


def _end(text: str, longest: int) -> str:
    """The end of a text that is too long, since paths differ there."""
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str | None = None, width: float = 1
) -> Html:
    where = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return tag("line", **where, stroke=colour, stroke_width=width, stroke_dasharray=dash)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str | None = None,
    size: int | None = None,
    weight: str | None = None,
) -> Html:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text_anchor": anchor}
    return tag("text", text, **place, fill=colour, font_size=size, font_weight=weight)
