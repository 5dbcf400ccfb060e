"""The page of one run: its last checkpoint, and how every task went over training. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from pineco.evals.report.formats import compact, interval, percent
from pineco.evals.report.page.charts import Point, curve_chart
from pineco.evals.report.page.html import render
from pineco.evals.report.page.report import READING, tables
from pineco.evals.results.averages import Average
from pineco.evals.results.over_training import AverageOverTime, History
from pineco.evals.results.results import EvalResult


class _Figure(NamedTuple):
    """A curve with its caption."""

    name: str
    now: str
    lines: Sequence[str]
    chart: Markup


def run_page(run: History, averages: Sequence[AverageOverTime], *, title: str, details: Mapping[str, str]) -> str:
    """A whole HTML document."""
    many = f"{len(run.reports)} checkpoint{'s' * (len(run.reports) != 1)}"
    tasks = f"{len(run.tasks)} task{'s' * (len(run.tasks) != 1)}"
    over_time = len(run.reports) > 1
    best = {"best": {task: _best(run, task) for task in run.tasks}} if over_time else {}
    note = f"{READING} Best: the highest of all checkpoints, and its {run.axis}." if over_time else READING
    return render(
        "run.html",
        title=title,
        lead=f"Zero-shot over training: {many}, {tasks}, the last at {compact(run.places[-1])} {run.axis}",
        reading=note,
        run=run,
        averages=averages,
        last_averages=[average.points[-1] for average in averages],
        average_figures=_average_figures(run, averages) if over_time else [],
        not_in_last=[task for task in run.tasks if task not in run.last.by_task],
        task_figures=[_task_figure(run, task) for task in run.tasks] if over_time else [],
        **tables(run.last, best, details),
    )


def _best(run: History, task: str) -> str:
    checkpoint = run.best(task)
    return f"{percent(run.reports[checkpoint].by_task[task].value)} at {compact(run.places[checkpoint])}"


def _average_figures(run: History, averages: Sequence[AverageOverTime]) -> list[_Figure]:
    """Those that have a value at some checkpoint; where one is refused, it is said which and what it lacks."""
    return [_average_figure(run, a) for a in averages if len(a.refused) < len(a.points)]


def _average_figure(run: History, over_time: AverageOverTime) -> _Figure:
    points = [_average_point(x, a) for x, a in zip(run.places, over_time.points, strict=True)]
    lacking = [_lacks(run, over_time, n) for n in over_time.refused]
    return _figure(run, over_time.points[-1].label, points, lacking, wide=True)


def _lacks(run: History, over_time: AverageOverTime, checkpoint: int) -> str:
    missing = over_time.points[checkpoint].missing
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return f"none at {compact(run.places[checkpoint])}: lacks {named}"


def _task_figure(run: History, task: str) -> _Figure:
    results = run.of(task)
    points = [_point(x, result) for x, result in zip(run.places, results, strict=True)]
    absent = [compact(x) for x, result in zip(run.places, results, strict=True) if result is None]
    remarks = [f"not measured at {', '.join(absent)}"] if absent else []
    return _figure(run, task, points, remarks, wide=len(run.tasks) <= 2)


def _figure(run: History, name: str, points: Sequence[Point], remarks: Sequence[str], *, wide: bool) -> _Figure:
    known = [point for point in points if point.value is not None]
    first, last = known[0], known[-1]
    when = f"{percent(first.value)} at {compact(first.x)}, {percent(last.value)} at {compact(last.x)} {run.axis}"
    chart = curve_chart(
        points,
        label=f"{name}: {when}; chance {percent(last.chance)}",
        axis=run.axis,
        y_ticks=5 if wide else 3,
        x_ticks=6 if wide else 2,
    )
    under = [f"95 %: {interval(last.interval)}"] if last.interval else []
    under += [f"chance {percent(last.chance)}"] if last.chance is not None else []
    return _Figure(name, percent(last.value), [*under, *remarks], chart)


def _point(x: float, result: EvalResult | None) -> Point:
    return Point(x, None) if result is None else Point(x, result.value, result.interval, result.value_of_chance)


def _average_point(x: float, a: Average) -> Point:
    return Point(x, a.value, a.interval, a.chance)
