"""The page of one report. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pineco.evals.report.page.html import document
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
from pineco.evals.results.results import EvalReport

READING = (
    "Main metric of each task. Its 95 % interval is a bootstrap over the images measured; the dashed mark in the small "
    "picture is what guessing scores."
)


def report_page(report: EvalReport, averages: Sequence[Average]) -> str:
    """A whole HTML document."""
    lead = f"Zero-shot, {len(report.results)} task{'s' * (len(report.results) != 1)}, {report.precision}"
    return document(
        report.model,
        header(report.model, lead),
        average_cards(averages),
        results_section("Results", report.results, {}, READING),
        gaps(report),
        notes(report.notes),
        best_and_worst(report.results),
        origin_section(report),
    )
