"""The page of a comparison of two or more models. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pineco.evals.report.formats import origin
from pineco.evals.report.page.html import FEW, render
from pineco.evals.results.comparison import ComparedAverage, ComparedTask, Comparison, Gap, Verdict

_SIGNS: dict[Verdict, str] = {"win": "▲ win", "tie": "= tie", "loss": "▼ loss"}


class _Table(NamedTuple):
    """Differences with their intervals, drawn from -widest to widest."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[ComparedTask | ComparedAverage]
    widest: float
    has_metric: bool


def comparison_page(c: Comparison) -> str:
    """A whole HTML document."""
    many = f"{len(c.tasks)} common task{'s' * (len(c.tasks) != 1)}"
    images = "images that could not all be checked to be the same" if c.unchecked else "the same images"
    tables = [_table(c, "Averages", "over", c.averages, _over(c))] if c.averages else []
    tables += [_table(c, "Tasks", "task", c.tasks, "Main metric; 0 in the small picture is the baseline, dashed.")]
    return render(
        "comparison.html",
        title=f"{', '.join(c.others)} against {c.runs[0]}",
        lead=f"Zero-shot, {many}, measured on {images} and compared image by image",
        reading=(
            f"Differences in percentage points; 95 % intervals of a paired bootstrap over images ({c.draws:,} draws). "
            "A tie: the interval holds 0. Of tasks without any difference, about 1 in 20 is still called a win or a "
            "loss."
        ),
        c=c,
        signs=_SIGNS,
        tables=tables,
        ranked=_best_and_worst(c),
        left_out=[(task, f"no figure in {', '.join(lacking)}") for task, lacking in c.left_out.items()],
        origins=[(name, {"model": r.model} | origin(r)) for name, r in zip(c.runs, c.reports, strict=True)],
    )


def _over(c: Comparison) -> str:
    """What the averages lack, in words."""
    given = [a for a in c.averages if a.missing and a.first.value is not None]
    lacking = [f"{a.label}, without {', '.join(a.missing)}" for a in given]
    named_ones = f" Not whole: {'; '.join(lacking)}." if lacking else ""
    return f"Means over the tasks that run and baseline have.{named_ones} Their intervals take tasks as independent."


def _table(c: Comparison, title: str, first: str, rows: Sequence[ComparedTask | ComparedAverage], note: str) -> _Table:
    known = [gap for row in rows for gap in row.gaps if gap is not None]
    widest = max((max(abs(gap.low), abs(gap.high), abs(gap.value)) for gap in known), default=0.0) or 0.01
    columns = [first]
    for name in c.others:
        columns += [f"{name}: difference", f"± {100 * widest:.3g} points", name]
    return _Table(title, note, [*columns, c.runs[0]], rows, widest, has_metric=first == "task")


def _best_and_worst(c: Comparison) -> list[tuple[str, list[tuple[str, Gap]]]]:
    """(title, tasks with their gaps): where each run gains and loses most; empty where there are too few tasks."""
    if len(c.tasks) < 2:
        return []
    cards = []
    for other, name in enumerate(c.others):
        known = [(task.task, gap) for task in c.tasks if (gap := task.gaps[other]) is not None]
        ranked = sorted(known, key=lambda pair: -pair[1].value)
        gained = [(task, gap) for task, gap in ranked if gap.value > 0]
        lost = [(task, gap) for task, gap in reversed(ranked) if gap.value < 0]
        cards += [(f"{name}: most gained", gained[:FEW]), (f"{name}: most lost", lost[:FEW])]
    return cards
