"""Still pictures: figures over training, 2AFC with its limits, and how alike models are. Torch-free.

Drawn by matplotlib without pyplot, from its default settings, so that a picture depends on nothing but its data.
Colours are after Okabe and Ito: told apart with any colour vision.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pineco.evals.report.formats import compact, nice_ticks, percent
from pineco.evals.results.over_training import Curve
from pineco.evals.results.results import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#444444", "#7b3fa0")
MARKERS = ("o", "s", "^", "D")  # the next one where the colours come round again
WIDTH = 1000  # pixels
TEXT, SOFT, GRID, PEOPLE = "#222222", "#666666", "#e3e3e3", "#009e73"
_DPI, _POINTS = 96, 0.75  # of one pixel
_CURVE: dict[str, Any] = {"linewidth": 1.5, "markersize": 5}
_CHANCE: dict[str, Any] = {"linestyle": (0, (5, 5)), "linewidth": 0.8}
_DOTTED = (0, (1, 1.5))
_STYLE: dict[Any, Any] = {  # matplotlib names every key in its types
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pineco",  # the names of parts do not change from one time to the next
    "text.parse_math": False,  # a name may hold dollars
    "text.hinting": "none",  # or a text's width would depend on the resolution
    "font.size": 12 * _POINTS,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelpad": 8,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
}


@dataclass(frozen=True)
class JudgedSplit:
    """2AFC of one model on one split; all figures are shares in [0, 1]."""

    number: int  # of the model: 0, or 1 for the one that it is compared with
    model: str
    split: str
    two_afc: float
    interval: Interval
    best_choice: float | None  # the highest that there can be on these votes
    held_out_voter: float | None  # the majority of the others, on a voter left out
    by_share: tuple[Agreement, ...]


class Agreement(NamedTuple):
    """With the majority, where the majority has this share; both in [0, 1]."""

    share: float
    value: float
    interval: Interval


def draw_curves(curves: Sequence[Curve], *, title: str, x_label: str) -> Figure:
    """One line a curve, its chance level dashed, and a legend sorted by last value.

    Both axes start at 0; y is in percent and ends at a round number, x ends with the last point.
    """
    row, top, bottom = 21, 66, 62
    ordered = sorted(curves, key=lambda curve: -curve.points[-1][1])
    height = max(340, row * len(ordered))
    with _style():
        sheet = _Sheet(WIDTH, top + height + bottom)
        sheet.title(title)
        names = [sheet.say(0, top + 8 + row * n, curve.name, width=300) for n, curve in enumerate(ordered)]
        left = WIDTH - 150 - max(sheet.width(name) for name in names)
        for name in names:
            sheet.move(name, left)
        axes = sheet.axes(62, top, left - 62, top + height)
        _draw_lines(axes, ordered, x_label)
        sheet.say(62, top - 14, "main metric", colour=SOFT)
        for x, text in ((WIDTH - 96, "last"), (WIDTH - 10, "chance (--)")):
            sheet.say(x, top - 14, text, colour=SOFT, align="right")
        for number, curve in enumerate(ordered):
            y = top + 8 + row * number
            sheet.swatch(left - 38, y, *_look(number))
            sheet.say(WIDTH - 96, y, f"{100 * curve.points[-1][1]:.1f}%", align="right")
            sheet.say(WIDTH - 10, y, f"{100 * curve.chance:.3g}%", colour=SOFT, align="right")
    return sheet.figure


def draw_triplets(title: str, rows: Sequence[JudgedSplit], *, chance: float) -> Figure:
    """A dot with its interval a row, with the limits that people set; the curves are those of the first split."""
    row, top, left, bottom, panel = 38, 84, 240, 84, 330
    with _style():
        sheet = _Sheet(WIDTH, top + max(panel, row * len(rows) + 30) + bottom)
        sheet.title(title)
        sheet.say(left, top - 16, "2AFC, 95 % interval", colour=SOFT)
        foot = top + row * len(rows)
        axes = sheet.axes(left, top, 500, foot)
        _draw_scores(axes, rows, chance)
        for number, one in enumerate(rows):
            y = top + row * (number + 0.5)
            sheet.say(left - 10, y - 8, one.model, align="right", width=left - 30, keep="end")
            split = f"{one.split}, baseline" if one.number else one.split
            sheet.say(left - 10, y + 9, split, colour=SOFT, align="right", width=left - 30)
            sheet.say(508, y, percent(one.two_afc))
        notes = {"dashed: chance": SOFT, "green line: best possible": PEOPLE}
        notes["green dots: majority of the others, on a voter left out"] = PEOPLE
        for number, (note, colour) in enumerate(notes.items()):
            sheet.say(left, foot + 46 + 18 * number, note, colour=colour)
        first = [one for one in rows if one.split == rows[0].split]
        sheet.say(630, top - 16, f"agreement with the majority, {rows[0].split}", colour=SOFT, width=350)
        _draw_agreement(sheet.axes(630, top, WIDTH - 30, top + panel), first, chance)
    return sheet.figure


def draw_probe(report: Mapping[str, Any]) -> Figure:
    """Heat maps of CKA and RSA with their numbers, and each model's layers against the first's, of a probe's report."""
    labels, layers = [one["label"] for one in report["models"]], report["layers"]
    cell, line, gap = max(52, min(100, 440 // len(labels))), 25, 24
    side = cell * len(labels)
    panel = max(side + line, 400)
    top = 2 * gap + line * (1 + len(labels))
    foot = top + side + 2 * line + 2 * gap
    with _style():
        sheet = _Sheet(2 * panel + 3 * gap, foot + (410 if layers else 0))
        sheet.say(gap, gap + 6, f"{report['images']:,} images of {report['data']}", colour=SOFT, width=2 * panel)
        for number, label in enumerate(labels):
            y = gap + 6 + line * (number + 1)
            sheet.say(gap, y, str(number + 1), colour=SOFT)
            if layers and number:
                sheet.swatch(gap + 28, y, *_look(number - 1))
            sheet.say(gap + (68 if layers else 28), y, label, width=2 * panel - 60, keep="end")
        maps = {"linear CKA, debiased": report["cka"], f"RSA, {report['rsa']['images']:,} images": report["rsa"]}
        for number, (title, table) in enumerate(maps.items()):
            left = gap + number * (panel + gap) + line
            sheet.say(left - line, top + 8, title)
            _draw_heat_map(sheet.axes(left, top + 2 * line, left + side, top + 2 * line + side), table, cell)
        if layers:
            about = f"linear CKA of each layer ({layers['tokens']}) to that of model 1; bars: 95 %"
            sheet.say(gap, foot, about)
            axes = sheet.axes(gap + 40, foot + 24, 2 * panel + 2 * gap, foot + 350)
            _draw_layers(axes, list(layers["curves"].values()))
    return sheet.figure


def svg(figure: Figure, title: str) -> str:
    """An SVG document with its texts as text, the same each time for the same figure."""
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return buffer.getvalue()


def write_png(path: Path, figure: Figure) -> None:
    """At twice the size of `figure`, so that it is sharp on dense screens."""
    with _style():
        figure.savefig(path, format="png", dpi=2 * _DPI, metadata={"Software": None})


@contextmanager
def _style() -> Iterator[None]:
    """Our settings in place of those that the user has for pictures of his own."""
    import matplotlib  # deferred: takes half a second

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


class _Sheet:
    """A figure of so many pixels; places are pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._width, self._height = width, height
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(self.figure)  # or every text that is measured would make a canvas of its own

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        width, height = (right - left) / self._width, (bottom - top) / self._height
        return self.figure.add_axes((left / self._width, 1 - bottom / self._height, width, height))

    def title(self, text: str) -> None:
        self.say(24, 28, text, size=16, weight="bold", width=self._width - 100, keep="end")

    def say(
        self,
        x: float,
        y: float,
        text: str,
        *,
        colour: str = TEXT,
        align: str = "left",
        width: float = math.inf,
        keep: str = "start",
        **font: Any,
    ) -> Text:
        """One line around the height y. What is wider than `width` is cut; keep="end": at its start, as for paths."""
        font["size"] = font.get("size", 12) * _POINTS
        place = (x / self._width, 1 - y / self._height)
        said = self.figure.text(*place, " ".join(text.split()), color=colour, ha=align, va="center", **font)
        while self.width(said) > width:
            whole = said.get_text().strip("…")
            most = min(len(whole) - 1, math.ceil(len(whole) * width / self.width(said)))
            said.set_text(f"…{whole[-most:]}" if keep == "end" else f"{whole[:most]}…")
        return said

    def width(self, text: Text) -> float:
        """In pixels."""
        return text.get_window_extent().width

    def move(self, text: Text, x: float) -> None:
        text.set_x(x / self._width)

    def swatch(self, x: float, y: float, colour: str, marker: str) -> None:
        """A piece of a line, 26 pixels wide."""
        from matplotlib.lines import Line2D

        xs = [(x + step) / self._width for step in (0, 13, 26)]
        ys = [1 - y / self._height] * 3
        look: dict[str, Any] = {"color": colour, "marker": marker, "markevery": [1], **_CURVE}
        self.figure.add_artist(Line2D(xs, ys, transform=self.figure.transFigure, **look))


def _look(number: int) -> tuple[str, str]:
    """(colour, marker) of a curve."""
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


def _draw_lines(axes: Axes, curves: Sequence[Curve], x_label: str) -> None:
    shared = Counter(curve.chance for curve in curves)
    largest = max(x for curve in curves for x, _ in curve.points) or 1.0
    ticks = nice_ticks(max(max(curve.chance, *(y for _, y in curve.points)) for curve in curves), 6)
    for number, curve in enumerate(curves):
        colour, marker = _look(number)
        own = colour if shared[curve.chance] == 1 else "#777777"
        axes.axhline(curve.chance, color=own, **_CHANCE, label=f"chance of {curve.name}")
        xs, ys = zip(*curve.points, strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, label=curve.name, clip_on=False, **_CURVE)
    axes.set_xlim(0, largest)
    axes.set_ylim(0, ticks[-1])
    axes.set_yticks(ticks, [f"{100 * share:.4g}%" for share in ticks])
    places = [place for place in nice_ticks(largest, 5) if place <= largest]
    axes.set_xticks(places, [compact(place) for place in places])
    axes.set_xlabel(x_label)
    axes.grid(axis="y")


def _draw_scores(axes: Axes, rows: Sequence[JudgedSplit], chance: float) -> None:
    lowest = min(chance, *(row.interval[0] for row in rows))
    first = math.floor(10 * lowest + 1e-9) / 10
    axes.axvline(chance, color=TEXT, **_CHANCE)
    for number, row in enumerate(rows):
        for limit, dash in ((row.best_choice, "-"), (row.held_out_voter, _DOTTED)):
            if limit is not None:
                axes.vlines(limit, number - 0.5, number + 0.5, color=PEOPLE, linestyle=dash, linewidth=1.8)
        colour = COLOURS[row.number]
        axes.hlines(number, *row.interval, color=colour, linewidth=2.4)
        axes.plot([row.two_afc], [number], "o", color=colour, markersize=7, clip_on=False)
    axes.set_xlim(first - 0.05, 1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _percent_ticks(axes, first)
    axes.grid(axis="x")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_agreement(axes: Axes, rows: Sequence[JudgedSplit], chance: float) -> None:
    axes.axhline(chance, color=TEXT, **_CHANCE)
    axes.plot([0.5, 1], [0.5, 1], color=PEOPLE, linestyle=_DOTTED, linewidth=1.8, label="one voter")
    axes.text(0.51, 0.44, "green dots: one voter", color=PEOPLE, va="center")  # below chance, where no curve is
    for row in rows:
        values = [one.value for one in row.by_share]
        below = [one.value - one.interval[0] for one in row.by_share]
        above = [one.interval[1] - one.value for one in row.by_share]
        aside = 0.004 * row.number  # or the intervals of two models would lie on each other
        axes.errorbar(
            [one.share + aside for one in row.by_share],
            values,
            yerr=[below, above],
            color=COLOURS[row.number],
            marker="o",
            markersize=5.5,
            linewidth=1.6,
            elinewidth=1.2,
            clip_on=False,
            label=row.model,
        )
    axes.set_xlim(0.5, 1)
    axes.set_ylim(0, 1)
    shares = nice_ticks(1.0, 5)
    axes.set_yticks(shares, [f"{100 * share:.0f}%" for share in shares])
    _percent_ticks(axes, 0.5)
    axes.grid(axis="y")
    axes.set_xlabel("share of people in the majority")


def _percent_ticks(axes: Axes, first: float) -> None:
    """Every tenth from `first` to 1, or every second one where there are many."""
    tenths = range(10, math.ceil(10 * first - 1e-9) - 1, -1 if first > 0.35 else -2)
    axes.set_xticks([tenth / 10 for tenth in tenths], [f"{10 * tenth}%" for tenth in tenths])


def _draw_heat_map(axes: Axes, table: Mapping[str, Any], cell: float) -> None:
    """White at 0, blue at 1, orange at -1; a figure that is not known is white with a dash."""
    from matplotlib.colors import LinearSegmentedColormap

    values, count = table["values"], len(table["values"])
    colours = LinearSegmentedColormap.from_list("similarity", (COLOURS[1], "#ffffff", COLOURS[0]))
    axes.imshow([[value or 0.0 for value in row] for row in values], cmap=colours, vmin=-1, vmax=1)
    for i, rows in enumerate(zip(values, table["low"], table["high"], strict=True)):
        for j, (value, low, high) in enumerate(zip(*rows, strict=True)):
            colour, sure = "#ffffff" if abs(value or 0.0) > 0.55 else TEXT, i != j and cell >= 75 and low is not None
            shown: dict[str, Any] = {"color": colour, "ha": "center", "va": "center"}
            axes.text(j, i - 0.1 * sure, "-" if value is None else f"{value:.2f}", size=15 * _POINTS, **shown)
            if sure:
                axes.text(j, i + 0.22, f"{low:.2f} to {high:.2f}", size=10.5 * _POINTS, **shown)
    names = [str(number + 1) for number in range(count)]
    axes.set_xticks(range(count), names)
    axes.set_yticks(range(count), names)
    axes.set_xticks([edge - 0.5 for edge in range(1, count)], minor=True)
    axes.set_yticks([edge - 0.5 for edge in range(1, count)], minor=True)
    axes.grid(which="minor", color="#ffffff", linewidth=1.5)
    axes.tick_params(which="both", length=0, top=True, labeltop=True, labelbottom=False, labelcolor=SOFT)
    axes.spines[:].set_visible(False)


def _draw_layers(axes: Axes, curves: Sequence[Mapping[str, Any]]) -> None:
    depth = 1 + max(place for curve in curves for place in curve["of_first"])
    lowest = math.floor(5 * min(0.0, *(v for c in curves for v in (*c["cka"], *c["low"]) if v is not None)))
    for number, curve in enumerate(curves):
        colour, marker = _look(number)
        aside = 0.05 * (number - (len(curves) - 1) / 2)  # or intervals would lie on each other
        scale = (depth - 1) / max(1, len(curve["cka"]) - 1)
        values = zip(curve["cka"], curve["low"], curve["high"], strict=True)
        known = [(1 + layer * scale + aside, *v) for layer, v in enumerate(values) if None not in v]
        axes.plot([x for x, *_ in known], [value for _, value, _, _ in known], color=colour, marker=marker, **_CURVE)
        axes.vlines([x for x, *_ in known], [one[2] for one in known], [one[3] for one in known], color=colour)
    axes.set_xlim(0.5, depth + 0.5)
    axes.set_ylim(lowest / 5, 1)
    axes.set_yticks([tick / 5 for tick in range(lowest, 6)], [f"{tick / 5:.1f}" for tick in range(lowest, 6)])
    axes.set_xticks(range(1, depth + 1, 1 + depth // 30))
    axes.set_xlabel("layer of model 1")
    axes.grid(axis="y")
