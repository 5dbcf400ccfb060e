"""Writes reports for machines (JSON), for readers (Markdown, HTML, SVG) and for terminals. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.evals.data.tasks import Task, load_tasks
from pineco.evals.report.formats import images, percent, short_interval, times
from pineco.evals.report.markdown import report_markdown, run_markdown
from pineco.evals.report.page import report_page, run_page
from pineco.evals.report.plots import draw_curves, svg
from pineco.evals.results.averages import Average, averages
from pineco.evals.results.over_training import history
from pineco.evals.results.results import EvalReport, EvalResult

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

REPORT_JSON, REPORT_MD, REPORT_HTML, CURVE_SVG = "report.json", "report.md", "report.html", "curve.svg"
_COLUMNS = ("task", "metric", "value", "95 %", "chance", "x", "images")  # of the terminal; 80 characters are few


def write_report(path: Path, report: EvalReport, *, partial_average: bool = False) -> Path:
    """Writes `path` (JSON) and, beside it, the same as Markdown and as a page; returns the Markdown's path.

    An average over a set of tasks that lacks some is refused, or with `partial_average` given and labelled so. Each
    file appears whole or not at all, the JSON last.
    """
    markdown = path.with_suffix(".md")
    means = averages(report, load_tasks(), partial=partial_average)
    write_text_atomically(markdown, report_markdown(report, means))
    write_text_atomically(path.with_suffix(".html"), report_page(report, means))
    write_text_atomically(path, report.to_json())
    return markdown


def write_run_report(
    directory: Path,
    reports: Sequence[EvalReport],
    *,
    title: str,
    details: Mapping[str, str],
    partial_average: bool = False,
) -> Path:
    """Writes curve.svg, report.md, .html and .json about the checkpoints of one run; returns report.md's path.

    `reports` come in the order of training, at least one; a task may be missing from some of them. `details` are
    shown as they are, below the tables. Each file appears whole or not at all, report.json last.
    """
    if not any(report.results for report in reports):
        raise InputError(f"{directory}: no checkpoint was measured, so there is nothing to report")
    directory.mkdir(parents=True, exist_ok=True)
    run = history(reports)
    means = run.averages(load_tasks(), partial=partial_average)
    picture = draw_curves([run.curve(task) for task in run.tasks], title=title, x_label=run.axis)
    text = run_markdown(run, means, title=title, details=details, picture=CURVE_SVG)
    rows = [report.to_dict() for report in reports]
    write_text_atomically(directory / CURVE_SVG, svg(picture, title))
    write_text_atomically(directory / REPORT_MD, text)
    write_text_atomically(directory / REPORT_HTML, run_page(run, means, title=title, details=details))
    write_text_atomically(directory / REPORT_JSON, json.dumps(rows, indent=2, allow_nan=False) + "\n")
    return directory / REPORT_MD


def read_reports(path: Path) -> list[EvalReport]:
    """Reports of a file written by `write_report` (one) or `write_run_report` (one a checkpoint)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a report ({error})") from None
    try:
        return [EvalReport.from_dict(row) for row in (data if isinstance(data, list) else [data])]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def report_scalars(report: EvalReport, means: Sequence[Average] = ()) -> dict[str, float]:
    """For TensorBoard and the like: "eval/TASK/METRIC", and "eval/average/NAME" of the averages that have a value."""
    scalars = {f"eval/average/{mean.label}": mean.value for mean in means if mean.value is not None}
    for result in report.results:
        scalars |= {f"eval/{result.task}/{metric}": value for metric, value in result.metrics.items()}
    return scalars


def terminal_table(
    report: EvalReport, *, table: Mapping[str, Task] | None = None, partial_average: bool = False
) -> Table:
    """Results, averages and what has no figure, for a rich console. `table`: by default the rows of tasks.yaml."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, title=Text(report.model), caption_justify="left")
    for number, column in enumerate(_COLUMNS):
        text = number < 2
        shown.add_column(column, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for result in report.results:
        shown.add_row(*map(Text, _row(result)))
    means = averages(report, load_tasks() if table is None else table, partial=partial_average)
    if means:
        shown.add_section()
    for mean in means:
        value = percent(mean.value) if mean.value is not None else "refused"
        have = f"{len(mean.measured)} of {len(mean.members)}"
        cells = (mean.label, "average", value, short_interval(mean.interval), percent(mean.chance), "", have)
        shown.add_row(*map(Text, cells))
    shown.caption = _caption(report, means)
    return shown


def _row(result: EvalResult) -> list[str]:
    figures = [percent(result.value), short_interval(result.interval), percent(result.value_of_chance), times(result)]
    return [result.task, result.main_metric, *figures, images(result)]


def _caption(report: EvalReport, means: Sequence[Average]) -> Text | None:
    from rich.text import Text

    lines = [f"{task} failed: {why}" for task, why in report.failed.items()]
    lines += [f"no data here: {', '.join(report.missing)}"] if report.missing else []
    lines += [f"{a.label}: measured on a part of their images: {', '.join(a.parts)}" for a in means if a.parts]
    lines += report.notes
    return Text("\n".join(lines)) if lines else None
