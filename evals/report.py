"""Writes reports for machines (JSON), for readers (Markdown, SVG) and for terminals. Torch-free."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import InputError
from evals.curve import Curve, compact, draw_curves
from evals.results import EvalReport, EvalResult

if TYPE_CHECKING:
    from rich.table import Table

REPORT_JSON, REPORT_MD, CURVE_SVG = "report.json", "report.md", "curve.svg"
_COLUMNS = ("task", "metric", "value", "chance", "times chance", "images")
_LEFT = 2  # columns of text; the others hold numbers


def write_report(path: Path, report: EvalReport) -> Path:
    """Writes `path` (JSON) and, beside it, the same as Markdown; returns the Markdown's path.

    Each file appears whole or not at all, the JSON last.
    """
    markdown = path.with_suffix(".md")
    origin = _table(("", ""), _origin(report).items(), left=2)
    write_text_atomically(markdown, f"# {report.model}\n\n{markdown_table(report)}\n{origin}")
    write_text_atomically(path, report.to_json())
    return markdown


def read_reports(path: Path) -> list[EvalReport]:
    """Reports of a file written by `write_report` (one) or `write_run_report` (one a checkpoint)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a report ({error})") from None
    return [EvalReport.from_dict(row) for row in (data if isinstance(data, list) else [data])]


def markdown_table(report: EvalReport) -> str:
    """One row a task: its main metric with chance beside it. Ends in a newline."""
    return _table(_COLUMNS, [[*_figures(result), _images(result)] for result in report.results], left=_LEFT)


def terminal_table(report: EvalReport) -> Table:
    """The same table for a rich console."""
    from rich.table import Table

    table = Table(title=report.model)
    for number, column in enumerate(_COLUMNS):
        text = number < _LEFT
        table.add_column(column, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for result in report.results:
        table.add_row(*_figures(result), _images(result))
    return table


def write_run_report(directory: Path, reports: Sequence[EvalReport], *, title: str, details: Mapping[str, str]) -> Path:
    """Writes report.json, curve.svg and report.md about the checkpoints of one run; returns report.md's path.

    `reports` come in the order of training, at least one; a task may be missing from some of them. `details`
    are shown as they are, below the tables. Each file appears whole or not at all, report.md last.
    """
    if not any(report.results for report in reports):
        raise InputError(f"{directory}: no checkpoint was measured, so there is nothing to report")
    directory.mkdir(parents=True, exist_ok=True)
    axis, places = _places(reports)
    rows = [report.to_dict() for report in reports]
    write_text_atomically(directory / REPORT_JSON, json.dumps(rows, indent=2, allow_nan=False) + "\n")
    picture = draw_curves(_curves(reports, places), title=title, x_label=axis)
    write_text_atomically(directory / CURVE_SVG, picture)
    text = _run_markdown(reports, axis, places, title, details)
    write_text_atomically(directory / REPORT_MD, text)
    return directory / REPORT_MD


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step, so that neither a reader nor a crash ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _run_markdown(
    reports: Sequence[EvalReport], axis: str, places: Sequence[float], title: str, details: Mapping[str, str]
) -> str:
    latest, best = _latest(reports), _best(reports)
    final = [
        [*_figures(result), f"{compact(places[best[task]])} ({_percent(_of(reports[best[task]], task))})"]
        for task, result in latest.items()
    ]
    over_time = [
        [compact(place), *(_cell(_of(report, task), number == best[task]) for task in latest)]
        for number, (place, report) in enumerate(zip(places, reports, strict=True))
    ]
    sections = [
        f"# {_escape(title)}",
        f"![Zero-shot figures over training, chance dashed]({CURVE_SVG})",
        "## Last checkpoint",
        _table((*_COLUMNS[:-1], f"best, at {axis}"), final, left=_LEFT),
        "## Every checkpoint",
        _table((axis, *latest), over_time, left=0),
        "Main metric of each task, the best checkpoint in bold. Figures are shares of the images measured.",
        "## Details",
        _table(("", ""), (dict(details) | _origin(reports[-1])).items(), left=2),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _places(reports: Sequence[EvalReport]) -> tuple[str, list[float]]:
    """(what is counted, where each checkpoint stands): samples seen, else steps, else 1, 2, 3 ..."""
    samples = [report.samples_seen for report in reports if report.samples_seen is not None]
    if len(samples) == len(reports):
        return "samples seen", [float(n) for n in samples]
    steps = [report.step for report in reports if report.step is not None]
    if len(steps) == len(reports):
        return "step", [float(n) for n in steps]
    return "checkpoint", [float(n) for n in range(1, len(reports) + 1)]


def _latest(reports: Sequence[EvalReport]) -> dict[str, EvalResult]:
    """The last result of every task, tasks in the order in which they first came."""
    return {result.task: result for report in reports for result in report.results}


def _best(reports: Sequence[EvalReport]) -> dict[str, int]:
    """Number of the checkpoint with the highest main metric by task, the earliest of equals."""
    best: dict[str, tuple[float, int]] = {}
    for number, report in enumerate(reports):
        for result in report.results:
            if result.task not in best or result.value > best[result.task][0]:
                best[result.task] = (result.value, number)
    return {task: number for task, (_, number) in best.items()}


def _of(report: EvalReport, task: str) -> float | None:
    return next((result.value for result in report.results if result.task == task), None)


def _curves(reports: Sequence[EvalReport], places: Sequence[float]) -> list[Curve]:
    curves = []
    for task, last in _latest(reports).items():
        values = [(place, _of(report, task)) for place, report in zip(places, reports, strict=True)]
        points = tuple((place, value) for place, value in values if value is not None)
        curves.append(Curve(task, points, last.value_of_chance))
    return curves


def _figures(result: EvalResult) -> list[str]:
    times = f"{result.value / result.value_of_chance:.1f}x"
    return [result.task, result.main_metric, _percent(result.value), _percent(result.value_of_chance), times]


def _images(result: EvalResult) -> str:
    """Says so where only a part of the benchmark was measured: the figure is then not comparable."""
    part = result.full_size is not None and result.full_size != result.samples
    return f"{result.samples:,} of {result.full_size:,}" if part else f"{result.samples:,}"


def _origin(report: EvalReport) -> dict[str, str]:
    return {
        "weights": report.identity,
        "commit": report.commit or "unknown",
        "hardware": report.hardware,
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
        "evaluation": f"{sum(result.seconds for result in report.results):.1f} s",
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}%"


def _cell(share: float | None, best: bool) -> str:
    return f"**{_percent(share)}**" if best else _percent(share)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A Markdown table whose first `left` columns are flush left and the others flush right."""
    rule = ["---" if number < left else "--:" for number in range(len(head))]
    lines = [head, rule, *([_escape(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
