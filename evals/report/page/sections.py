"""Parts that the pages share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pineco.evals.report.formats import images, interval, origin, percent, times
from pineco.evals.report.page.charts import range_chart
from pineco.evals.report.page.html import Html, heads, named, number, scrolling, section, tag
from pineco.evals.results.averages import Average
from pineco.evals.results.results import EvalReport, EvalResult

FEW = 5  # tasks in a list of the best or the worst


def header(title: str, lead: str) -> Html:
    return tag("header", tag("h1", named(title)), tag("p", lead, class_="lead"))


def average_cards(averages: Sequence[Average]) -> Html:
    """One card an average; a refused one says what it lacks."""
    if not averages:
        return Html("")
    note = "Mean of the tasks' main metrics, each task once. An average over a set that lacks a task is not given."
    return section("Averages", tag("div", map(_average_card, averages), class_="cards"), note=note)


def _average_card(a: Average) -> Html:
    if a.value is None:
        figure = tag("p", "refused", class_="big refused")
        lines = [f"{len(a.measured)} of {len(a.members)} tasks have a figure"]
    else:
        figure = tag("p", percent(a.value), class_="big")
        lines = [f"95 %: {interval(a.interval)}"] if a.interval else []
        lines += [f"chance {percent(a.chance)}", f"{len(a.measured)} of {len(a.members)} tasks"]
    lacks = [_named(f"{len(a.missing)} missing", a.missing)] if a.missing else []
    lacks += [_named(f"{len(a.parts)} on a part of their images", a.parts)] if a.parts else []
    return tag(
        "div",
        tag("h3", named(a.label)),
        figure,
        [tag("p", line, class_="under") for line in lines],
        lacks,
        class_="card",
    )


def _named(what: str, tasks: Sequence[str]) -> Html:
    """A few names stand there; many open on a click."""
    if len(tasks) <= FEW:
        return tag("p", f"{what}: {', '.join(tasks)}", class_="under")
    return tag("details", tag("summary", what), ", ".join(tasks))


def gaps(report: EvalReport) -> Html:
    """Tasks that were asked for and have no figure."""
    rows = [(task, f"failed: {why}") for task, why in report.failed.items()]
    rows += [(task, "no data here") for task in report.missing]
    return section("Without a figure", plain_table("Tasks without a figure", rows)) if rows else Html("")


def notes(lines: Sequence[str]) -> Html:
    """A list; nothing where there are none."""
    return section("Notes", tag("ul", [tag("li", line) for line in lines], class_="notes")) if lines else Html("")


def results_section(
    title: str, results: Sequence[EvalResult], extra: Mapping[str, Mapping[str, str]], note: str
) -> Html:
    """The table of figures, chance beside the value, where a phone shows it.

    `extra` are further columns: cells by task, by the column's name.
    """
    if any(result.prompts for result in results):
        extra = {**extra, "prompts": {result.task: result.prompts for result in results}}
    columns = ("task", "value", "chance", "95 %", "0 to 100 %", "times chance", "images", "seconds", *extra)
    rows = [_result_row(result, [cells.get(result.task, "") for cells in extra.values()]) for result in results]
    return section(title, scrolling(title, heads(*columns), rows), note=note)


def _result_row(result: EvalResult, extra: Iterable[str]) -> Html:
    shown = range_chart(result.value, result.interval, low=0, high=1, mark=result.value_of_chance, label=spoken(result))
    return tag(
        "tr",
        tag("th", named(result.task), tag("span", named(result.main_metric), class_="how"), scope="row"),
        number(percent(result.value), class_="value"),
        number(percent(result.value_of_chance), class_="soft"),
        number(interval(result.interval)),
        number(shown),
        number(times(result)),
        number(images(result)),
        number(f"{result.seconds:.1f}", class_="soft"),
        [number(cell, class_="soft") for cell in extra],
    )


def spoken(result: EvalResult) -> str:
    """The figure in words."""
    known = f", 95 % interval {interval(result.interval)} %" if result.interval else ""
    return f"{result.task}: {percent(result.value)}{known}, chance {percent(result.value_of_chance)}"


def best_and_worst(results: Sequence[EvalResult]) -> Html:
    """By multiples of chance; nothing where there are too few to compare."""
    ranked = sorted((r for r in results if r.times_chance is not None), key=lambda r: -(r.times_chance or 0.0))
    few = min(FEW, len(ranked) // 2)
    if few < 1:
        return Html("")
    lists = [("Furthest above chance", ranked[:few]), ("Closest to chance, or below", ranked[::-1][:few])]
    cards = [
        tag("div", tag("h3", name), tag("ol", map(_ranked, rows), class_="rank"), class_="card") for name, rows in lists
    ]
    note = "Main metric as a multiple of what guessing scores on the same data, so tasks of many classes lead easily."
    return section("Best and worst", tag("div", cards, class_="two"), note=note)


def _ranked(result: EvalResult) -> Html:
    unclear = result.interval is not None and result.interval[0] <= result.value_of_chance
    mark = [" ", tag("span", "not above chance", class_="tag even")] if unclear else []
    figure = tag("span", tag("span", times(result), class_="value"), f" · {percent(result.value)}", class_="figure")
    return tag("li", tag("span", named(result.task), mark, class_="name"), figure)


def origin_section(report: EvalReport, details: Mapping[str, str] | None = None) -> Html:
    rows = (dict(details or {}) | origin(report)).items()
    return section("Origin", plain_table("Where these figures come from", rows))


def plain_table(caption: str, rows: Iterable[tuple[str, str]]) -> Html:
    """Two columns of texts that wrap."""
    body = [tag("tr", tag("th", named(name), scope="row"), tag("td", value)) for name, value in rows]
    table = tag("table", tag("caption", caption), tag("tbody", body), class_="plain")
    return tag("div", table, class_="scroll")
