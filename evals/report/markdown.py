"""Reports as Markdown text. Pure, torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pineco.evals.report.formats import compact, images, interval, origin, percent, seconds, times
from pineco.evals.results.averages import Average
from pineco.evals.results.over_training import AverageOverTime, History
from pineco.evals.results.results import EvalReport, EvalResult

LEFT = 2  # columns of text at the left of a table of results; the others hold numbers
COLUMNS = ("task", "metric", "value", "95 %", "chance", "times chance", "images", "prompts", "seconds")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A Markdown table whose first `left` columns are flush left and the others flush right."""
    rule = ["---" if number < left else "--:" for number in range(len(head))]
    lines = [[escape(cell) for cell in head], rule, *([escape(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape(text: str) -> str:
    """In one line; neither a cell nor a tag begins where a name holds a bar or a bracket."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def join(sections: Iterable[str]) -> str:
    """Sections with one empty line between them; empty ones are left out."""
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"


def row(result: EvalResult) -> list[str]:
    """Cells of COLUMNS."""
    figures = [percent(result.value), interval(result.interval), percent(result.value_of_chance), times(result)]
    return [result.task, result.main_metric, *figures, images(result), result.prompts, f"{result.seconds:.1f}"]


def results_table(report: EvalReport) -> str:
    """One row a task: its main metric with its interval and chance. Ends in a newline."""
    return table(COLUMNS, map(row, report.results), left=LEFT)


def averages_section(averages: Sequence[Average]) -> str:
    """A table, refused ones with what they lack; empty where there are none."""
    if not averages:
        return ""
    rows = [
        [
            a.label,
            percent(a.value) if a.value is not None else "refused",
            interval(a.interval),
            percent(a.chance),
            _lacks(a),
        ]
        for a in averages
    ]
    return f"## Averages\n\n{table(('tasks', 'value', '95 %', 'chance', 'missing'), rows, left=1)}"


def _lacks(a: Average) -> str:
    notes = [f"{len(a.missing)} of {len(a.members)}: {', '.join(a.missing)}"] if a.missing else []
    notes += [f"measured on a part of their images: {', '.join(a.parts)}"] if a.parts else []
    return "; ".join(notes) or "none"


def gaps_section(report: EvalReport) -> str:
    """Tasks that were asked for and have no figure, and why; empty where every one has."""
    rows = [*report.failed.items(), *((task, "no data here") for task in report.missing)]
    return f"## Without a figure\n\n{table(('task', 'why'), rows, left=2)}" if rows else ""


def notes_section(report: EvalReport) -> str:
    """What is odd about the data; empty where nothing is."""
    return "## Notes\n\n" + "".join(f"- {escape(note)}\n" for note in report.notes) if report.notes else ""


def report_markdown(report: EvalReport, averages: Sequence[Average]) -> str:
    return join(
        [
            f"# {escape(report.model)}",
            results_table(report),
            averages_section(averages),
            gaps_section(report),
            notes_section(report),
            f"## Origin\n\n{table(('', ''), origin(report).items(), left=2)}",
        ]
    )


def run_markdown(
    run: History, averages: Sequence[AverageOverTime], *, title: str, details: Mapping[str, str], picture: str
) -> str:
    """`picture`: path of the curves, as seen from the document."""
    return join(
        [
            f"# {escape(title)}",
            f"![Zero-shot figures over training, chance dashed]({picture})",
            f"## Last checkpoint\n\n{_last(run)}",
            averages_section([over_time.points[-1] for over_time in averages]),
            gaps_section(run.last),
            notes_section(run.last),
            f"## Every checkpoint\n\n{_every(run, averages)}",
            "Main metric of each task, the best checkpoint in bold. Figures are shares of the images measured.",
            f"## Details\n\n{table(('', ''), (dict(details) | origin(run.last)).items(), left=2)}",
        ]
    )


def _last(run: History) -> str:
    """A task that the last checkpoint lacks has no figure here, only its best one."""
    measured = run.last.by_task
    rows = []
    for task in run.tasks:
        number = run.best(task)
        best = run.reports[number].by_task[task]
        cells = row(measured[task]) if task in measured else [task, best.main_metric, *"-------"]
        rows.append([*cells[:-1], f"{compact(run.places[number])} ({percent(best.value)})"])
    return table((*COLUMNS[:-1], f"best, at {run.axis}"), rows, left=LEFT)


def _every(run: History, averages: Sequence[AverageOverTime]) -> str:
    best = {task: run.best(task) for task in run.tasks}
    rows = []
    for number, (place, report) in enumerate(zip(run.places, run.reports, strict=True)):
        values = [(_value(report, task), number == best[task]) for task in run.tasks]
        cells = [f"**{percent(value)}**" if is_best else percent(value) for value, is_best in values]
        means = [percent(over_time.points[number].value) for over_time in averages]
        rows.append([compact(place), *means, *cells, seconds(report.seconds) if report.seconds else "-"])
    heads = [over_time.points[-1].label for over_time in averages]
    return table((run.axis, *heads, *run.tasks, "time"), rows, left=0)


def _value(report: EvalReport, task: str) -> float | None:
    return report.by_task[task].value if task in report.by_task else None
