"""How figures are said, the same in Markdown, in terminals and on pages. Pure, torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from pineco.evals.results.provenance import Measurement
from pineco.evals.results.results import EvalReport, EvalResult, Interval

NONE = "-"  # there is no figure


def percent(share: float | None) -> str:
    """0.25 -> "25.00%"."""
    return NONE if share is None else f"{100 * share:.2f}%"


def points(difference: float | None) -> str:
    """A difference of two shares, in percentage points with its sign: 0.0123 -> "+1.23"."""
    return NONE if difference is None else f"{100 * difference:+.2f}"


def interval(pair: Interval | None) -> str:
    """(0.24, 0.26) -> "24.00 to 26.00"."""
    return NONE if pair is None else f"{100 * pair[0]:.2f} to {100 * pair[1]:.2f}"


def short_interval(pair: Interval | None) -> str:
    """(0.24, 0.26) -> "24.0-26.0", for terminals."""
    return NONE if pair is None else f"{100 * pair[0]:.1f}-{100 * pair[1]:.1f}"


def point_interval(pair: Interval | None) -> str:
    return NONE if pair is None else f"{points(pair[0])} to {points(pair[1])}"


def times(result: EvalResult) -> str:
    """As a multiple of guessing, "2.5x"."""
    return NONE if result.times_chance is None else f"{result.times_chance:.1f}x"


def images(result: EvalResult) -> str:
    """Says so where only a part of the benchmark was measured: the figure is then not comparable."""
    return f"{result.samples:,} of {result.full_size:,}" if result.is_part else f"{result.samples:,}"


def seconds(number: float) -> str:
    """75.25 -> "1 min 15 s", 3.21 -> "3.2 s"."""
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def nice_ticks(largest: float, most: int) -> list[float]:
    """0, step, ... up to the first multiple of a 1-2-5 step that reaches `largest`, at most `most` steps."""
    if largest <= 0:
        return [0.0, 1.0]
    power = 10 ** math.floor(math.log10(largest / most))
    step = next(f * power for f in (1, 2, 5, 10, 20) if math.ceil(largest / (f * power) - 1e-9) <= most)
    return [step * i for i in range(math.ceil(largest / step - 1e-9) + 1)]


def compact(number: float) -> str:
    """1500000 -> "1.5M": short enough for a tick label."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.4g}{letter}"
    return f"{number:.4g}"


def origin(report: EvalReport) -> dict[str, str]:
    """Where the numbers of a report come from, by name."""
    details = {
        "step": "" if report.step is None else f"{report.step:,}",
        "samples seen": "" if report.samples_seen is None else f"{report.samples_seen:,}",
        "tasks asked for": report.selection,
    }
    measured = sum(result.seconds for result in report.results)
    return origin_of(replace(report, seconds=report.seconds or measured), details)


def origin_of(report: Measurement, details: Mapping[str, str]) -> dict[str, str]:
    """Where the numbers of any report come from, by name; `details` follow the weights. Empty texts are left out."""
    found = {
        "weights": report.identity,
        **details,
        "precision": report.precision,
        "commit": report.commit or "unknown",
        "hardware": report.hardware,
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
        "evaluation": seconds(report.seconds),
    }
    return {name: value for name, value in found.items() if value}
