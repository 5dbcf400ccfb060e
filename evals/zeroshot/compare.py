"""Compares models image by image: paired bootstrap differences to the first of them, over the tasks that both have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.names import few
from pineco.evals.data.tasks import Task, load_tasks
from pineco.evals.results.averages import ALL, Average, asked_sets, average, mean_interval
from pineco.evals.results.comparison import COMMON, ComparedAverage, ComparedTask, Comparison, Gap
from pineco.evals.results.draws import DRAWS
from pineco.evals.results.results import EvalReport, EvalResult
from pineco.evals.zeroshot.intervals import difference
from pineco.evals.zeroshot.outcomes import Outcomes, load_outcomes, metrics, paired

Measured = tuple[EvalReport, Path]  # a report, and the folder with the outcomes of its tasks
SAME = 1e-6  # a figure and its outcomes belong together up to this; metrics are sums of whole numbers and sorted scores


def compare(
    reports: Mapping[str, Measured],
    *,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    partial: bool = False,
    table: Mapping[str, Task] | None = None,
    progress: Callable[[str], None] = lambda task: None,
) -> Comparison:
    """Two or more reports by name; the first is the baseline.

    `methods`, one a report, are equal for runs that differ in their seed alone (by default every report is its own
    method). `partial`: average also over sets of which one of a pair lacks a task. `table`: rows of tasks.yaml, by
    default those here. `progress` hears the task that is next.
    Raises InputError where a run has no task of the baseline, outcomes are missing, damaged or not of their report, or
    two reports were not measured on the same data.
    """
    names, all_reports = tuple(reports), tuple(report for report, _ in reports.values())
    if len(names) < 2:
        raise InputError("a comparison needs two runs or reports at least")
    for name, report in zip(names[1:], all_reports[1:], strict=True):
        if not common_tasks(all_reports[0], report):
            raise InputError(f"no task was measured for both {names[0]} and {name}; measure them on the same tasks")
    tasks = []
    for task in [t for t in all_reports[0].by_task if any(t in report.by_task for report in all_reports[1:])]:
        progress(task)
        tasks.append(_compare_task(task, reports, seed=seed, draws=draws))
    rows = load_tasks() if table is None else table
    return Comparison(
        runs=names,
        methods=names if methods is None else tuple(methods),
        reports=all_reports,
        tasks=tuple(tasks),
        averages=tuple(_averages(tasks, names, all_reports, rows, partial)),
        left_out=_left_out(names, all_reports),
        notes=tuple(_notes(names, all_reports, tasks)),
        draws=draws,
        seed=seed,
        unchecked=tuple(_unchecked(tasks)),
    )


def outcomes_path(folder: Path, task: str) -> Path:
    """Where the outcomes of a task lie in the folder of its report."""
    return folder / f"{task.replace('/', '-')}.safetensors"


def common_tasks(a: EvalReport, b: EvalReport) -> list[str]:
    """In the order of the first."""
    return [task for task in a.by_task if task in b.by_task]


def _left_out(names: Sequence[str], reports: Sequence[EvalReport]) -> dict[str, tuple[str, ...]]:
    """By task of only some: who lacks it."""
    measured = [report.by_task for report in reports]
    lacking = {
        task: tuple(name for name, results in zip(names, measured, strict=True) if task not in results)
        for task in _known(reports)
    }
    return {task: without for task, without in lacking.items() if without}


def _known(reports: Sequence[EvalReport]) -> list[str]:
    """All tasks that some report was asked for, in the order of the reports."""
    named = (task for report in reports for task in (*report.by_task, *report.failed, *report.missing))
    return list(dict.fromkeys(named))


def _compare_task(task: str, reports: Mapping[str, Measured], *, seed: int, draws: int) -> ComparedTask:
    measured = {name: (report.by_task[task], at) for name, (report, at) in reports.items() if task in report.by_task}
    outcomes = {name: _outcomes(name, result, folder) for name, (result, folder) in measured.items()}
    (baseline, (first, _)), *others = measured.items()
    gaps = {}
    for name, (result, _) in others:
        try:
            _check_pair(outcomes[baseline], outcomes[name], first, result)
        except InputError as error:
            raise InputError(f"{task}, {baseline} and {name}: {error}") from None
        gap = difference(outcomes[name], outcomes[baseline], first.main_metric, seed=seed, draws=draws)
        gaps[name] = Gap(gap.value, gap.low, gap.high)
    rest = list(reports)[1:]
    return ComparedTask(
        first, tuple(reports[name][0].by_task.get(task) for name in rest), tuple(gaps.get(name) for name in rest)
    )


def _check_pair(a: Outcomes, b: Outcomes, of_a: EvalResult, of_b: EvalResult) -> None:
    """Raises InputError unless figures of one kind were measured on the same images, as far as the reports tell."""
    if of_a.main_metric != of_b.main_metric:
        raise InputError(f"main metrics {of_a.main_metric} and {of_b.main_metric}; measure one again")
    paired(a, b)
    if of_a.data and of_b.data and of_a.data != of_b.data:
        raise InputError(
            f"they were measured on different images (data {of_a.data[:12]} and {of_b.data[:12]}); "
            "measure both on the same data"
        )


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
    tasks: Sequence[ComparedTask],
    names: Sequence[str],
    reports: Sequence[EvalReport],
    table: Mapping[str, Task],
    partial: bool,
) -> list[ComparedAverage]:
    """Those due for each pair of the baseline and another run; pairs with the same tasks share one."""
    rows: dict[tuple[str, frozenset[str], frozenset[str]], tuple[Sequence[str], list[str]]] = {}
    for name, report in zip(names[1:], reports[1:], strict=True):
        both = common_tasks(reports[0], report)
        for title, members in _sets_of_pair(reports[0], report, table, partial).items():
            inside = frozenset(members).intersection(both)
            if inside:
                rows.setdefault((title, frozenset(members), inside), (members, []))[1].append(name)
    titles = list(dict.fromkeys(title for title, _, _ in rows))
    return [
        _average(title, members, [task for task in tasks if task.task in inside], names, of, partial)
        for (title, _, inside), (members, of) in sorted(rows.items(), key=lambda row: titles.index(row[0][0]))
    ]


def _sets_of_pair(a: EvalReport, b: EvalReport, table: Mapping[str, Task], partial: bool) -> dict[str, tuple[str, ...]]:
    """Tasks by the name of the set: those that the two reports were asked for, and what is whole in both."""
    common, asked = common_tasks(a, b), _known([a, b])
    selection = ",".join(dict.fromkeys((a.selection, b.selection)))
    sets = asked_sets(selection, asked, common, table)
    whole = partial or len(common) == len(asked)
    if whole and ALL not in sets and all(set(m) != set(common) for m in sets.values()) and len(common) > 1:
        sets = {COMMON: tuple(common)} | sets
    return sets


def _average(
    title: str,
    members: Sequence[str],
    inside: Sequence[ComparedTask],
    names: Sequence[str],
    of: Sequence[str],
    partial: bool,
) -> ComparedAverage:
    """Over the tasks `inside` a set, for those runs `of` which all have them."""

    def mean(run: int) -> Average:
        results = {result.task: result for task in inside if (result := task.results[run]) is not None}
        return average(title, members, results, partial=partial)

    first, others = mean(0), [mean(number) if name in of else None for number, name in enumerate(names[1:], start=1)]
    given = [number for number, other in enumerate(others) if other is not None and first.value is not None]
    gaps = {number: _mean_gap([gap for task in inside if (gap := task.gaps[number]) is not None]) for number in given}
    named = tuple(of) if len(of) < len(others) else ()
    return ComparedAverage(first, tuple(others), tuple(gaps.get(number) for number in range(len(others))), named)


def _mean_gap(gaps: Sequence[Gap]) -> Gap:
    values = [gap.value for gap in gaps]
    low, high = mean_interval(values, [(gap.low, gap.high) for gap in gaps])
    return Gap(math.fsum(values) / len(values), low, high)


def _unchecked(tasks: Sequence[ComparedTask]) -> list[str]:
    """Tasks of which a report is of an older version, without a digest of the data."""
    return [task.task for task in tasks if any(result is not None and not result.data for result in task.results)]


def _notes(names: Sequence[str], reports: Sequence[EvalReport], tasks: Sequence[ComparedTask]) -> list[str]:
    """What differs besides the weights and could be taken for a difference of the models."""
    by_name = list(zip(names, reports, strict=True))
    facts = {
        "precision": {name: report.precision for name, report in by_name},
        "code": {name: report.commit or "unknown" for name, report in by_name},
        "hardware": {name: report.hardware for name, report in by_name},
        "versions": {name: _versions(report) for name, report in by_name},
        "samples seen": {name: str(report.samples_seen) for name, report in by_name},
    }
    for task in tasks:
        named = [(name, result) for name, result in zip(names, task.results, strict=True) if result is not None]
        facts[f"prompts of {task.task}"] = {name: result.prompts or "none" for name, result in named}
    notes = [_note(what, values) for what, values in facts.items() if len(set(values.values())) > 1]
    if unchecked := _unchecked(tasks):
        why = "could not be checked to be the same, since a report of an older version holds no digest of its data"
        notes.insert(0, f"the images of {few(unchecked)} {why}")
    parts = [task.task for task in tasks if any(result is not None and result.is_part for result in task.results)]
    notes += [f"measured on a part of their images: {', '.join(parts)}"] if parts else []
    same = [name for name, report in by_name[1:] if report.identity == reports[0].identity]
    return notes + [f"{name} has the same weights as {names[0]}" for name in same]


def _note(what: str, values: Mapping[str, str]) -> str:
    return f"{what} differ: " + "; ".join(f"{name} {value}" for name, value in values.items())


def _versions(report: EvalReport) -> str:
    return ", ".join(f"{package} {number}" for package, number in report.versions.items())
