"""Compares models image by image: paired bootstrap differences to the first of them, over the tasks that all have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_pipeline.errors import InputError
from evals.averages import ALL, asked_sets, average, mean_interval
from evals.bootstrap import DRAWS, difference
from evals.comparison import COMMON, ComparedAverage, ComparedTask, Comparison, Gap
from evals.outcomes import Outcomes, load_outcomes, metrics, paired
from evals.results import EvalReport, EvalResult
from evals.tasks import Task, load_tasks

Measured = tuple[EvalReport, Path]  # a report, and the folder with the outcomes of its tasks
SAME = 1e-6  # a figure and its outcomes belong together up to this; metrics are sums of whole numbers and sorted scores


def compare(
    reports: Mapping[str, Measured],
    *,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    table: Mapping[str, Task] | None = None,
    progress: Callable[[str], None] = lambda task: None,
) -> Comparison:
    """Two or more reports by name; the first is the baseline.

    `methods`, one a report, are equal for runs that differ in their seed alone (by default every report is its own
    method). `table`: rows of tasks.yaml, by default those here. `progress` hears the task that is next.
    Raises InputError where no task is common, outcomes are missing, damaged or not of their report, or two reports
    were not measured on the same data.
    """
    names, all_reports = tuple(reports), tuple(report for report, _ in reports.values())
    if len(names) < 2:
        raise InputError("a comparison needs two runs or reports at least")
    common, left_out = _common(names, all_reports)
    if not common:
        raise InputError(f"no task was measured for all of {', '.join(names)}; measure them on the same tasks")
    tasks = []
    for task in common:
        progress(task)
        tasks.append(_compare_task(task, reports, seed=seed, draws=draws))
    rows = load_tasks() if table is None else table
    return Comparison(
        runs=names,
        methods=names if methods is None else tuple(methods),
        reports=all_reports,
        tasks=tuple(tasks),
        averages=tuple(_averages(tasks, list(left_out), all_reports, rows)),
        left_out=left_out,
        notes=tuple(_notes(names, all_reports, common)),
        draws=draws,
        seed=seed,
    )


def outcomes_path(folder: Path, task: str) -> Path:
    """Where the outcomes of a task lie in the folder of its report."""
    return folder / f"{task.replace('/', '-')}.safetensors"


def _common(names: Sequence[str], reports: Sequence[EvalReport]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """(tasks of all reports, by task of only some: who lacks it), in the order of the reports."""
    measured = [report.by_task for report in reports]
    known = dict.fromkeys(task for report in reports for task in (*report.by_task, *report.failed, *report.missing))
    lacking = {
        task: tuple(name for name, results in zip(names, measured, strict=True) if task not in results)
        for task in known
    }
    common = [task for task, without in lacking.items() if not without]
    return common, {task: without for task, without in lacking.items() if without}


def _compare_task(task: str, reports: Mapping[str, Measured], *, seed: int, draws: int) -> ComparedTask:
    results = tuple(report.by_task[task] for report, _ in reports.values())
    names = list(reports)
    outcomes = {name: _outcomes(name, report.by_task[task], folder) for name, (report, folder) in reports.items()}
    gaps = []
    for name, result in zip(names[1:], results[1:], strict=True):
        where = f"{task}, {names[0]} and {name}"
        if result.main_metric != results[0].main_metric:
            raise InputError(
                f"{where}: main metrics {results[0].main_metric} and {result.main_metric}; measure one again"
            )
        try:
            paired(outcomes[name], outcomes[names[0]])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        gap = difference(outcomes[name], outcomes[names[0]], result.main_metric, seed=seed, draws=draws)
        gaps.append(Gap(gap.value, gap.low, gap.high))
    return ComparedTask(results, tuple(gaps))


def _outcomes(name: str, result: EvalResult, folder: Path) -> Outcomes:
    path = outcomes_path(folder, result.task)
    if not path.is_file():
        raise InputError(f"{name}: {path} is missing, without which no pairs can be made; measure {result.task} again")
    outcomes = load_outcomes(path)
    value = metrics(outcomes).get(result.main_metric, math.nan)
    if not abs(value - result.value) <= SAME:
        raise InputError(
            f"{name}: {path} gives {result.main_metric} {value:.6f}, its report {result.value:.6f}; measure again"
        )
    return outcomes


def _averages(
    tasks: Sequence[ComparedTask], left_out: Sequence[str], reports: Sequence[EvalReport], table: Mapping[str, Task]
) -> list[ComparedAverage]:
    """Over the sets that the reports were asked for and what is whole, as far as all runs have their tasks."""
    common = [task.task for task in tasks]
    asked = ",".join(dict.fromkeys(report.selection for report in reports))
    sets = asked_sets(asked, [*common, *left_out], common, table)
    if ALL not in sets and all(set(members) != set(common) for members in sets.values()) and len(common) > 1:
        sets = {COMMON: tuple(common)} | sets
    return [_average(name, members, tasks) for name, members in sets.items() if set(members) & set(common)]


def _average(name: str, members: Sequence[str], tasks: Sequence[ComparedTask]) -> ComparedAverage:
    inside = [task for task in tasks if task.task in members]
    by_run = [{r.task: r for r in results} for results in zip(*(task.results for task in inside), strict=True)]
    gaps = []
    for of_tasks in zip(*(task.gaps for task in inside), strict=True):
        values = [gap.value for gap in of_tasks]
        low, high = mean_interval(values, [(gap.low, gap.high) for gap in of_tasks])
        gaps.append(Gap(math.fsum(values) / len(values), low, high))
    averages = tuple(average(name, members, results, partial=True) for results in by_run)
    return ComparedAverage(averages, tuple(gaps))


def _notes(names: Sequence[str], reports: Sequence[EvalReport], common: Sequence[str]) -> list[str]:
    """What differs besides the weights and could be taken for a difference of the models."""
    by_name = list(zip(names, reports, strict=True))
    facts = {
        "precision": {name: report.precision for name, report in by_name},
        "code": {name: report.commit or "unknown" for name, report in by_name},
        "hardware": {name: report.hardware for name, report in by_name},
        "versions": {name: _versions(report) for name, report in by_name},
        "samples seen": {name: str(report.samples_seen) for name, report in by_name},
    }
    for task in common:
        facts[f"prompts of {task}"] = {name: report.by_task[task].prompts or "none" for name, report in by_name}
    notes = [_note(what, values) for what, values in facts.items() if len(set(values.values())) > 1]
    parts = [task for task in common if any(report.by_task[task].is_part for report in reports)]
    notes += [f"measured on a part of their images: {', '.join(parts)}"] if parts else []
    same = [name for name, report in by_name[1:] if report.identity == reports[0].identity]
    return notes + [f"{name} has the same weights as {names[0]}" for name in same]


def _note(what: str, values: Mapping[str, str]) -> str:
    return f"{what} differ: " + "; ".join(f"{name} {value}" for name, value in values.items())


def _versions(report: EvalReport) -> str:
    return ", ".join(f"{package} {number}" for package, number in report.versions.items())
