"""From turns to figures, and from figures to whether what was asked for holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.bench.data.rounds import Turn


@dataclass(frozen=True)
class Figure:
    """What several turns gave."""

    what: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def record(self) -> dict[str, Any]:
        """For JSON: median, 20th and 80th percentile, to four digits."""
        low, high = np.percentile(self.values, [20, 80])
        spread = {name: _digits(value) for name, value in (("median", self.median), ("p20", low), ("p80", high))}
        return {"what": self.what, "unit": self.unit, **spread, "turns": len(self.values)}


@dataclass(frozen=True)
class Demand:
    """Something that must hold of a measured figure."""

    id: str  # of the load test, e.g. "L1"
    what: str
    measured: float
    required: float
    at_most: bool = False  # the figure may not be larger, instead of not smaller

    @property
    def holds(self) -> bool:
        return self.measured <= self.required if self.at_most else self.measured >= self.required

    def record(self) -> dict[str, Any]:
        bound = "at_most" if self.at_most else "at_least"
        measured = _digits(self.measured)
        return {"id": self.id, "what": self.what, "measured": measured, bound: self.required, "holds": self.holds}


@dataclass(frozen=True)
class Result:
    """What one part of the bench found."""

    figures: list[Figure]
    demands: list[Demand]


def rates(what: str, turns: Sequence[Turn], unit: str) -> list[Figure]:
    """Samples a second of wall time, and of computing time."""
    return [
        Figure(what, f"{unit}/s", tuple(turn.rate for turn in turns)),
        Figure(what, f"{unit}/s of CPU", tuple(turn.cpu_rate for turn in turns)),
    ]


def ratios(what: str, ours: Sequence[Turn], theirs: Sequence[Turn]) -> tuple[Figure, Figure]:
    """How many times as fast, round by round: by the clock, and by computing time."""
    pairs = list(zip(ours, theirs, strict=True))
    wall = Figure(what, "x", tuple(a.rate / b.rate for a, b in pairs))
    return wall, Figure(what, "x, CPU", tuple(a.cpu_rate / b.cpu_rate for a, b in pairs))


def lower(figures: Sequence[Figure]) -> float:
    """The smallest of the medians.

    A neighbour on the same core favours the contestant with more threads by the clock, and an idle thread looks fast by
    its computing time: what holds by both holds.
    """
    return min(figure.median for figure in figures)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
