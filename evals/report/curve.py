"""Draws figures over training as a small self-contained SVG. Torch-free, and free of any plotting library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pineco.evals.report.formats import compact, nice_ticks
from pineco.evals.results.over_training import Curve

WIDTH, LEFT, TOP, BOTTOM = 1000, 64, 66, 58  # pixels; LEFT, TOP and BOTTOM are margins of the plot
CHARACTER = 7.0  # pixels of one, on average, in the legend; measured on the names in tasks.yaml
SWATCH, NUMBERS = 62, 178  # pixels of the legend before and after its names
LAST, CHANCE = WIDTH - 118, WIDTH - 10  # right edges of the legend's numbers
ROW = 21  # height of a legend entry
MIN_HEIGHT = 340  # of the plot; a long legend makes it taller
LONGEST_NAME, LONGEST_TITLE = 36, 100  # characters that fit
# After Okabe and Ito: told apart with any colour vision. When they come round again, the marker changes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#444444", "#7b3fa0")
_SMALL = 'fill="#666" font-size="12"'
_MARKERS = (
    "M-3.4,0a3.4,3.4 0 1,0 6.8,0a3.4,3.4 0 1,0 -6.8,0z",
    "M-3.2,-3.2h6.4v6.4h-6.4z",
    "M0,-4.4l4.2,7.4h-8.4z",
    "M0,-4.6l4.6,4.6l-4.6,4.6l-4.6,-4.6z",
)


@dataclass(frozen=True)
class _Frame:
    """Where data stand on the picture."""

    right: float  # edge of the plot; the legend follows
    height: float  # of the plot
    largest_x: float
    y_ticks: list[float]

    @property
    def bottom(self) -> float:
        return TOP + self.height

    def x(self, value: float) -> float:
        return LEFT + (self.right - LEFT) * value / self.largest_x

    def y(self, share: float) -> float:
        return self.bottom - self.height * share / self.y_ticks[-1]


def draw_curves(curves: Sequence[Curve], *, title: str, x_label: str) -> str:
    """An SVG document: one polyline a curve, its chance level dashed, and a legend sorted by last value.

    Both axes start at 0; y is in percent and ends at a round number, x ends with the last point.
    """
    ordered = sorted(curves, key=lambda curve: -curve.points[-1][1])
    longest = max(len(_shorten(curve.name, LONGEST_NAME)) for curve in ordered)
    frame = _Frame(
        WIDTH - SWATCH - CHARACTER * longest - NUMBERS,
        max(MIN_HEIGHT, ROW * len(ordered)),
        max(x for curve in ordered for x, _ in curve.points) or 1.0,
        nice_ticks(max(max(curve.chance, *(y for _, y in curve.points)) for curve in ordered), 6),
    )
    height = frame.bottom + BOTTOM
    shared = Counter(curve.chance for curve in ordered)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}" role="img" font-size="13" fill="#222" '
        'font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>',
        _text(LEFT, 26, _shorten(title, LONGEST_TITLE), extra='font-size="16" font-weight="bold"'),
        *_axes(frame, x_label),
    ]
    for number, curve in enumerate(ordered):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(_chance_line(frame, curve, colour if shared[curve.chance] == 1 else "#777"))
        parts += _curve(frame, curve, colour, _marker(number))
        parts += _legend_entry(frame, curve, colour, _marker(number), TOP + 8 + ROW * number)
    parts += _legend_head()
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(frame: _Frame, x_label: str) -> list[str]:
    parts = []
    for share in frame.y_ticks:
        y = frame.y(share)
        parts.append(_line(LEFT, y, frame.right, y, "#e3e3e3" if share else "#222"))
        parts.append(_text(LEFT - 9, y + 4.5, f"{100 * share:.4g}%", anchor="end"))
    for value in nice_ticks(frame.largest_x, 7):
        if value > frame.largest_x:
            break
        x = frame.x(value)
        parts.append(_line(x, frame.bottom, x, frame.bottom + 5, "#222"))
        parts.append(_text(x, frame.bottom + 20, compact(value), anchor="middle"))
    parts.append(_line(LEFT, TOP, LEFT, frame.bottom, "#222"))
    parts.append(_text((LEFT + frame.right) / 2, frame.bottom + 43, x_label, anchor="middle"))
    parts.append(_text(LEFT, TOP - 14, "main metric", extra=_SMALL))
    return parts


def _curve(frame: _Frame, curve: Curve, colour: str, marker: str) -> list[str]:
    places = [(frame.x(x), frame.y(y)) for x, y in curve.points]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round">'
    return [
        f"{line}<title>{escape(curve.name)}</title></polyline>",
        *(_glyph(marker, x, y, colour) for x, y in places),
    ]


def _chance_line(frame: _Frame, curve: Curve, colour: str) -> str:
    y = frame.y(curve.chance)
    return _line(LEFT, y, frame.right, y, colour, 'stroke-dasharray="5 5" opacity="0.75"')


def _legend_head() -> list[str]:
    y = TOP - 14
    return [
        _text(LAST, y, "last", anchor="end", extra=_SMALL),
        _text(CHANCE, y, "chance (dashed)", anchor="end", extra=_SMALL),
    ]


def _legend_entry(frame: _Frame, curve: Curve, colour: str, marker: str, y: float) -> list[str]:
    x = frame.right + 24
    return [
        _line(x, y - 4.5, x + 26, y - 4.5, colour, 'stroke-width="2"'),
        _glyph(marker, x + 13, y - 4.5, colour),
        _text(x + 36, y, _shorten(curve.name, LONGEST_NAME)),
        _text(LAST, y, f"{100 * curve.points[-1][1]:.1f}%", anchor="end"),
        _text(CHANCE, y, f"{100 * curve.chance:.3g}%", anchor="end", extra='fill="#666"'),
    ]


def _marker(number: int) -> str:
    return _MARKERS[number // len(_COLOURS) % len(_MARKERS)]


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _glyph(marker: str, x: float, y: float, colour: str) -> str:
    return f'<path d="{marker}" transform="translate({x:.1f} {y:.1f})" fill="{colour}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {extra}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(text)}</text>'
