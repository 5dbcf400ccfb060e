"""Charts as SVG without text: labels are HTML beside it, so that they keep their size on a phone. Pure.

An SVG here is stretched over its box (x and y from 0 to 100), and no stroke is: a dot is a line of no length with round
ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pineco.evals.report.formats import compact, nice_ticks, percent
from pineco.evals.results.results import Interval

_EMPTY = Markup()


@dataclass(frozen=True)
class Point:
    """One checkpoint; a share of None is a gap in the curve."""

    x: float
    value: float | None
    interval: Interval | None = None
    chance: float | None = None


def curve_chart(points: Sequence[Point], *, label: str, axis: str, y_ticks: int = 3, x_ticks: int = 2) -> Markup:
    """A curve over training with its interval as a band and chance dashed; both axes start at 0.

    `label` says to those who do not see it what the picture shows.
    """
    largest_x = max(point.x for point in points) or 1.0
    ticks = nice_ticks(max(_heights(points)), y_ticks)
    frame = _Frame(largest_x, ticks[-1])
    drawn = [_level(frame.y(share), "grid" if share else "axis") for share in ticks]
    drawn += [shape for part in _parts(points)[:1] for shape in _chance(frame, part)]
    drawn += [shape for part in _parts(points) for shape in _band(frame, part)]
    drawn += [_line(frame, part) for part in _parts(points)]
    drawn += _dots(frame, points, axis)
    names = [_tick(f"{100 * share:.3g}%", "tick y", "top", frame.y(share)) for share in ticks]
    names += _names_x(frame, x_ticks)
    return Markup('<div class="area">{}{}</div>').format(_svg(drawn, label), _EMPTY.join(names))


def range_chart(
    value: float, interval: Interval | None, *, low: float, high: float, mark: float, label: str, class_: str = ""
) -> Markup:
    """One figure in a table cell: a dot, its interval as a line, and a dashed mark (chance, or no difference).

    The cell spans from `low` to `high`.
    """
    span = (high - low) or 1.0

    def place(number: float) -> str:
        return f"{100 * (number - low) / span:.2f}"

    drawn = [_path("M0,50H100", "grid"), _path(f"M{place(mark)},0V100", "chance")]
    if interval is not None:
        drawn.append(_path(f"M{place(interval[0])},50H{place(interval[1])}", "range"))
    drawn.append(_path(f"M{place(value)},50h0", "dot"))
    return Markup('<span class="{}">{}</span>').format(f"cell {class_}".strip(), _svg(drawn, label))


def _svg(shapes: Sequence[Markup], label: str) -> Markup:
    head = Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{}">').format(label)
    return head + _EMPTY.join(shapes) + Markup("</svg>")


def _path(shape: str, class_: str) -> Markup:
    return Markup('<path d="{}" class="{}"/>').format(shape, class_)


@dataclass(frozen=True)
class _Frame:
    largest_x: float
    largest_y: float

    def x(self, value: float) -> float:
        return 100 * value / self.largest_x

    def y(self, share: float) -> float:
        return 100 - 100 * share / self.largest_y


def _heights(points: Sequence[Point]) -> list[float]:
    found = [0.0]
    for point in points:
        found += [height for height in (point.value, point.chance) if height is not None]
        found += [point.interval[1]] if point.interval is not None else []
    return found


def _parts(points: Sequence[Point]) -> list[list[Point]]:
    """Stretches without a gap."""
    parts: list[list[Point]] = [[]]
    for point in points:
        if point.value is not None:
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _line(frame: _Frame, part: Sequence[Point]) -> Markup:
    joined = " ".join(f"{frame.x(p.x):.2f},{frame.y(p.value or 0.0):.2f}" for p in part)
    return Markup('<polyline points="{}" class="curve"/>').format(joined)


def _band(frame: _Frame, part: Sequence[Point]) -> list[Markup]:
    known = [(p.x, p.interval) for p in part if p.interval is not None]
    if len(known) < 2:
        return []
    upper = [f"{frame.x(x):.2f},{frame.y(high):.2f}" for x, (_, high) in known]
    lower = [f"{frame.x(x):.2f},{frame.y(low):.2f}" for x, (low, _) in reversed(known)]
    return [Markup('<polygon points="{}" class="band"/>').format(" ".join(upper + lower))]


def _chance(frame: _Frame, part: Sequence[Point]) -> list[Markup]:
    """The last checkpoint's; it is the same at all of them where the data are."""
    chance = part[-1].chance
    return [] if chance is None else [_level(frame.y(chance), "chance")]


def _dots(frame: _Frame, points: Sequence[Point], axis: str) -> list[Markup]:
    known = [(p.x, p.value) for p in points if p.value is not None]
    written, dots = Markup('<path d="M{:.2f},{:.2f}h0" class="{}"><title>{}</title></path>'), []
    for number, (x, value) in enumerate(known, start=1):
        title, class_ = f"{percent(value)} at {compact(x)} {axis}", "dot end" if number == len(known) else "dot"
        dots.append(written.format(frame.x(x), frame.y(value), class_, title))
    return dots


def _level(y: float, class_: str) -> Markup:
    return _path(f"M0,{y:.2f}H100", class_)


def _names_x(frame: _Frame, most: int) -> list[Markup]:
    """0 and the last place, and round numbers between them where there is room."""
    inner = [x for x in nice_ticks(frame.largest_x, most)[1:] if x < 0.75 * frame.largest_x] if most > 2 else []
    places = [(0.0, "tick x first"), *((x, "tick x") for x in inner), (frame.largest_x, "tick x last")]
    return [_tick(compact(x), class_, "left", frame.x(x)) for x, class_ in places]


def _tick(text: str, class_: str, side: str, place: float) -> Markup:
    return Markup('<span class="{}" style="{}:{:.2f}%">{}</span>').format(class_, side, place, text)
