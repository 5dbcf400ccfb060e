"""Writes a comparison for machines (JSON), for readers (Markdown, HTML) and for terminals. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pineco.data_pipeline.files import write_text_atomically
from pineco.evals.report.formats import NONE, origin, percent, point_interval, points
from pineco.evals.report.markdown import escape, join, table
from pineco.evals.report.page import comparison_page
from pineco.evals.results.comparison import ComparedAverage, ComparedTask, Comparison, Gap, Spread

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

NAME = "comparison"  # .md, .html and .json


def write_comparison(directory: Path, comparison: Comparison) -> Path:
    """Writes comparison.md, .html and .json; returns the Markdown's path. Each appears whole, the JSON last."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{NAME}.json"
    write_text_atomically(path.with_suffix(".md"), comparison_markdown(comparison))
    write_text_atomically(path.with_suffix(".html"), comparison_page(comparison))
    write_text_atomically(path, json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n")
    return path.with_suffix(".md")


def comparison_markdown(c: Comparison) -> str:
    return join(
        [
            f"# {escape(', '.join(c.others))} against {escape(c.runs[0])}",
            f"Differences in percentage points; 95 % intervals of a paired bootstrap over images ({c.draws:,} draws).",
            _totals(c),
            f"## Averages\n\n{_averages(c)}" if c.averages else "",
            f"## Tasks\n\n{table(_head(c, 'task'), [_row(task) for task in c.tasks], left=1)}",
            _seeds(c),
            _left_out(c),
            "## Notes\n\n" + "".join(f"- {escape(note)}\n" for note in c.notes) if c.notes else "",
            *(_origin(name, c, number) for number, name in enumerate(c.runs)),
        ]
    )


def terminal_comparison(c: Comparison) -> Group:
    """Averages and tasks with their verdicts for a rich console, a table for each run but the baseline, and notes."""
    from rich.console import Group
    from rich.text import Text

    notes = [Text("\n".join(c.notes))] if c.notes else []
    return Group(*(_terminal_table(c, number) for number in range(len(c.others))), *notes)


def _terminal_table(c: Comparison, other: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    name, baseline = c.others[other], c.runs[0]
    shown = Table(box=SIMPLE_HEAD, title=Text(f"{name} against {baseline}: {_won(c, other)}"), title_justify="left")
    shown.add_column("task", overflow="fold")
    for head in ("baseline", "run", "difference", "95 %", ""):  # names are too long for a column
        shown.add_column(head, justify="right", no_wrap=True)
    rows = [figures for figures in _all(c) if figures.others[other] is not None]
    averages = sum(isinstance(figures, ComparedAverage) for figures in rows)
    for number, figures in enumerate(rows, start=1):
        values = (figures.values[0], figures.values[1 + other])
        cells = [figures.label, *map(percent, values), *_gap(figures.gaps[other])]
        shown.add_row(*map(Text, cells), end_section=number == averages)
    return shown


def _all(c: Comparison) -> list[ComparedAverage | ComparedTask]:
    return [*c.averages, *c.tasks]


def _spread(found: Spread | None) -> str:
    """ "24.91% ± 0.20 (3)": mean, sample standard deviation, number of runs."""
    if found is None:
        return NONE
    if found.deviation is None:
        return f"{percent(found.mean)} (1)"
    return f"{percent(found.mean)} ± {100 * found.deviation:.2f} ({found.runs})"


def _head(c: Comparison, first: str) -> list[str]:
    columns = [first, c.runs[0]]
    for name in c.others:
        columns += [name, "difference", "95 %", ""]
    return columns


def _row(figures: ComparedTask | ComparedAverage) -> list[str]:
    cells = [figures.label, percent(figures.values[0])]
    for value, gap in zip(figures.values[1:], figures.gaps, strict=True):
        cells += [percent(value), *_gap(gap)]
    return cells


def _gap(gap: Gap | None) -> Sequence[str]:
    if gap is None:
        return NONE, NONE, NONE
    return points(gap.value), point_interval((gap.low, gap.high)), gap.verdict


def _won(c: Comparison, other: int) -> str:
    totals = c.totals(other)
    return f"{totals.win} won, {totals.tie} tied, {totals.loss} lost of {sum(totals)}"


def _totals(c: Comparison) -> str:
    rows = [[name, *map(str, c.totals(number))] for number, name in enumerate(c.others)]
    return f"{table((f'against {c.runs[0]}', 'win', 'tie', 'loss'), rows, left=1)}\nA tie: the interval holds 0."


def _averages(c: Comparison) -> str:
    rows = [[*_row(a), ", ".join(a.missing) or "none"] for a in c.averages]
    return table((*_head(c, "over"), "missing"), rows, left=1)


def _seeds(c: Comparison) -> str:
    if not c.has_seeds:
        return ""
    methods = list(dict.fromkeys(c.methods))
    rows = []
    for figures in _all(c):
        found = c.over_seeds(figures.values)
        rows.append([figures.label, *(_spread(found.get(method)) for method in methods)])
    text = "Mean ± sample standard deviation over the runs of a method (their number in brackets)."
    return f"## Over seeds\n\n{table(('', *methods), rows, left=1)}\n{text}"


def _left_out(c: Comparison) -> str:
    rows = [(task, ", ".join(lacking)) for task, lacking in c.left_out.items()]
    return f"## Left out\n\n{table(('task', 'has no figure in'), rows, left=2)}" if rows else ""


def _origin(name: str, c: Comparison, number: int) -> str:
    rows = ({"model": c.reports[number].model} | origin(c.reports[number])).items()
    return f"## {escape(name)}\n\n{table(('', ''), rows, left=2)}"
