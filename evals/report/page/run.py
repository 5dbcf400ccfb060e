"""The page of one run: its last checkpoint, and how every task went over training. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pineco.evals.report.curve import compact
from pineco.evals.report.formats import interval, percent
from pineco.evals.report.page.charts import Point, curve_chart
from pineco.evals.report.page.html import Html, document, heads, named, number, scrolling, section, tag
from pineco.evals.report.page.report import READING
from pineco.evals.report.page.sections import (
    average_cards,
    best_and_worst,
    gaps,
    header,
    notes,
    origin_section,
    results_section,
)
from pineco.evals.results.averages import Average
from pineco.evals.results.over_training import AverageOverTime, History
from pineco.evals.results.results import EvalResult


def run_page(run: History, averages: Sequence[AverageOverTime], *, title: str, details: Mapping[str, str]) -> str:
    """A whole HTML document."""
    many = f"{len(run.reports)} checkpoint{'s' * (len(run.reports) != 1)}"
    tasks = f"{len(run.tasks)} task{'s' * (len(run.tasks) != 1)}"
    over_time = len(run.reports) > 1
    best = {"best": {task: _best(run, task) for task in run.tasks}} if over_time else {}
    note = f"{READING} Best: the highest of all checkpoints, and its {run.axis}." if over_time else READING
    return document(
        title,
        header(title, f"Zero-shot over training: {many}, {tasks}, the last at {compact(run.places[-1])} {run.axis}"),
        average_cards([average.points[-1] for average in averages]),
        _average_curves(run, averages) if over_time else Html(""),
        results_section("Last checkpoint", run.last.results, best, note),
        _not_in_last(run),
        gaps(run.last),
        notes(run.last.notes),
        best_and_worst(run.last.results),
        [_task_curves(run), _every_checkpoint(run, averages)] if over_time else Html(""),
        origin_section(run.last, details),
    )


def _best(run: History, task: str) -> str:
    checkpoint = run.best(task)
    return f"{percent(_values(run, task)[checkpoint])} at {compact(run.places[checkpoint])}"


def _average_curves(run: History, averages: Sequence[AverageOverTime]) -> Html:
    """Those that have a value at some checkpoint; where one is refused, it is said which and what it lacks."""
    drawn = [a for a in averages if len(a.refused) < len(a.points)]
    if not drawn:
        return Html("")
    note = "The band is the 95 % interval, the dashed line what guessing scores."
    figures = [_average_figure(run, a) for a in drawn]
    return section("Averages over training", tag("div", figures, class_="plots wide"), note=note)


def _average_figure(run: History, over_time: AverageOverTime) -> Html:
    points = [_average_point(x, a) for x, a in zip(run.places, over_time.points, strict=True)]
    lacking = [_lacks(run, over_time, n) for n in over_time.refused]
    return _figure(run, over_time.points[-1].label, points, lacking, wide=True)


def _lacks(run: History, over_time: AverageOverTime, checkpoint: int) -> str:
    missing = over_time.points[checkpoint].missing
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return f"none at {compact(run.places[checkpoint])}: lacks {named}"


def _task_curves(run: History) -> Html:
    figures = [_task_figure(run, task) for task in run.tasks]
    note = f"Main metric over {run.axis}; band: 95 % interval; dashed: chance. Each picture has a scale of its own."
    class_ = "plots wide" if len(figures) <= 2 else "plots"
    return section("Every task over training", tag("div", figures, class_=class_), note=note)


def _task_figure(run: History, task: str) -> Html:
    results = run.of(task)
    points = [_point(x, result) for x, result in zip(run.places, results, strict=True)]
    absent = [compact(x) for x, result in zip(run.places, results, strict=True) if result is None]
    return _figure(
        run, task, points, [f"not measured at {', '.join(absent)}"] if absent else [], wide=len(run.tasks) <= 2
    )


def _figure(run: History, name: str, points: Sequence[Point], remarks: Sequence[str], *, wide: bool) -> Html:
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
    caption = tag(
        "figcaption",
        tag("div", tag("h3", named(name)), tag("span", percent(last.value), class_="now"), class_="row"),
        [tag("p", line, class_="under") for line in (*under, *remarks)],
    )
    return tag("figure", caption, chart, class_="plot")


def _point(x: float, result: EvalResult | None) -> Point:
    return Point(x, None) if result is None else Point(x, result.value, result.interval, result.value_of_chance)


def _average_point(x: float, a: Average) -> Point:
    return Point(x, a.value, a.interval, a.chance)


def _not_in_last(run: History) -> Html:
    absent = [task for task in run.tasks if task not in run.last.by_task]
    text = f"Measured at an earlier checkpoint, not at the last: {', '.join(absent)}."
    return tag("p", text, class_="note") if absent else Html("")


def _every_checkpoint(run: History, averages: Sequence[AverageOverTime]) -> Html:
    """Tasks are the rows: a phone is taller than it is wide."""
    rows = [
        tag(
            "tr",
            tag("th", over_time.points[-1].label, scope="row"),
            [number(percent(a.value), class_="value") for a in over_time.points],
        )
        for over_time in averages
    ]
    for task in run.tasks:
        best = run.best(task)
        cells = [number(percent(v), class_="best" if n == best else "") for n, v in enumerate(_values(run, task))]
        rows.append(tag("tr", tag("th", named(task), scope="row"), cells))
    table = scrolling("Every checkpoint", heads(f"task, at {run.axis}", *map(compact, run.places)), rows)
    return section("Every checkpoint", table, note="Main metric; the best checkpoint of a task stands out.")


def _values(run: History, task: str) -> list[float | None]:
    return [result.value if result else None for result in run.of(task)]
