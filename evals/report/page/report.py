"""The page of one report, and what it shares with the page of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pineco.evals.report.formats import origin
from pineco.evals.report.page.html import FEW, render
from pineco.evals.results.averages import Average
from pineco.evals.results.results import EvalReport, EvalResult

READING = (
    "Main metric of each task. Its 95 % interval is a bootstrap over the images measured; the dashed mark in the small "
    "picture is what guessing scores."
)


def report_page(report: EvalReport, averages: Sequence[Average]) -> str:
    """A whole HTML document."""
    lead = f"Zero-shot, {len(report.results)} task{'s' * (len(report.results) != 1)}, {report.precision}"
    return render(
        "report.html",
        title=report.model,
        lead=lead,
        reading=READING,
        report=report,
        averages=averages,
        **tables(report, {}, {}),
    )


def tables(
    report: EvalReport, columns: Mapping[str, Mapping[str, str]], details: Mapping[str, str]
) -> dict[str, object]:
    """Values of the templates that show one report: columns, without_figure, ranked and origin.

    columns: further ones of the table of results, cells by task, by the column's name. details: further rows of the
    origin, the first ones.
    """
    if any(result.prompts for result in report.results):
        columns = {**columns, "prompts": {result.task: result.prompts for result in report.results}}
    without_figure = [(task, f"failed: {why}") for task, why in report.failed.items()]
    without_figure += [(task, "no data here") for task in report.missing]
    found = {"columns": columns, "without_figure": without_figure}
    return {**found, "ranked": _best_and_worst(report.results), "origin": dict(details) | origin(report)}


def _best_and_worst(results: Sequence[EvalResult]) -> dict[str, Sequence[EvalResult]]:
    """By multiples of chance; empty where there are too few to compare."""
    ranked = sorted((r for r in results if r.times_chance is not None), key=lambda r: -(r.times_chance or 0.0))
    few = min(FEW, len(ranked) // 2)
    if few < 1:
        return {}
    return {"Furthest above chance": ranked[:few], "Closest to chance, or below": ranked[::-1][:few]}
