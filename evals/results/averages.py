"""Averages of main metrics over a tag or a group, complete or refused. Pure, torch-free.

An average over 28 of 29 benchmarks is another figure than one over 29, so it is only given where somebody asked for it,
and then says what it is over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pineco.evals.data.tasks import Task, split_selection
from pineco.evals.results.results import EvalReport, EvalResult, Interval

ALL = "all tasks"  # name of the set of everything that was asked for


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean of the main metrics of a set of tasks; `value` is None where it is refused."""

    name: str
    members: tuple[str, ...]  # all tasks of the set
    measured: tuple[str, ...]  # those that have a figure
    parts: tuple[str, ...] = ()  # those of them that were measured on a part of their images
    value: float | None  # share in [0, 1]
    chance: float | None  # mean of what guessing scores on the same tasks
    interval: Interval | None = None  # 95 %, see `mean_interval`; None where a task has none

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(task for task in self.members if task not in self.measured)

    @property
    def label(self) -> str:
        """ "paper29", and where a value is given over less than all of it "paper29, over 5 of 29"."""
        whole = self.value is None or not self.missing
        return self.name if whole else f"{self.name}, over {len(self.measured)} of {len(self.members)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the label and what is missing."""
        return {
            "name": self.name,
            "label": self.label,
            "value": self.value,
            "interval": self.interval,
            "chance": self.chance,
            "tasks": len(self.members),
            "measured": list(self.measured),
            "missing": list(self.missing),
            "on_a_part_of_their_images": list(self.parts),
        }


def average(name: str, members: Sequence[str], results: Mapping[str, EvalResult], *, partial: bool = False) -> Average:
    """Over `members`, or refused (value None) where one has no result, unless `partial` says that this is wanted."""
    found = [results[task] for task in members if task in results]
    given = bool(found) and (partial or len(found) == len(members))
    intervals = [result.interval for result in found]
    known = [interval for interval in intervals if interval is not None]
    mean = math.fsum(r.value for r in found) / len(found) if given else None
    return Average(
        name=name,
        members=tuple(members),
        measured=tuple(result.task for result in found),
        parts=tuple(result.task for result in found if result.is_part),
        value=mean,
        chance=math.fsum(r.value_of_chance for r in found) / len(found) if given else None,
        interval=(
            mean_interval([r.value for r in found], known)
            if mean is not None and len(known) == len(intervals)
            else None
        ),
    )


def mean_interval(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """95 % interval of the mean of independent figures: their half widths added in quadrature, each side by itself.

    The tasks' images are drawn independently of each other, so variances add. Exact for normal errors, close for
    percentile intervals of hundreds of images.
    """
    mean = math.fsum(values) / len(values)
    pairs = list(zip(values, intervals, strict=True))
    below = math.hypot(*(max(0.0, value - low) for value, (low, _) in pairs)) / len(pairs)
    above = math.hypot(*(max(0.0, high - value) for value, (_, high) in pairs)) / len(pairs)
    return mean - below, mean + above


def asked_sets(
    selection: str, asked: Sequence[str], measured: Iterable[str], table: Mapping[str, Task]
) -> dict[str, tuple[str, ...]]:
    """Tasks by the name of the set that an average is due for.

    `selection` is what was asked for ("paper29+paper2"); each tag and group in it is a set, and where it names none,
    all tasks of `asked` are one. Further tags and groups follow where every task of theirs was `measured`, and
    there are at least two.
    """
    sets = _tags_and_groups(table)
    chosen = {name: sets[name] for name in split_selection(selection) if name in sets}
    have = set(measured)
    whole = {name: tasks for name, tasks in sets.items() if len(tasks) > 1 and have.issuperset(tasks)}
    if not chosen and len(asked) > 1 and all(set(tasks) != set(asked) for tasks in whole.values()):
        chosen = {ALL: tuple(asked)}
    taken = [set(tasks) for tasks in chosen.values()]
    return chosen | {name: tasks for name, tasks in whole.items() if set(tasks) not in taken}


def averages(report: EvalReport, table: Mapping[str, Task], *, partial: bool = False) -> list[Average]:
    """Of one report, over the sets that `asked_sets` names."""
    results = report.by_task
    asked = dict.fromkeys([*results, *report.failed, *report.missing])
    sets = asked_sets(report.selection, list(asked), results, table)
    return [average(name, members, results, partial=partial) for name, members in sets.items()]


def _tags_and_groups(table: Mapping[str, Task]) -> dict[str, tuple[str, ...]]:
    """As `select_tasks` understands a name: a group wins over a tag."""
    tags: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    for task in table.values():
        groups.setdefault(task.group, []).append(task.key)
        for tag in task.tags:
            tags.setdefault(tag, []).append(task.key)
    return {name: tuple(tasks) for name, tasks in (tags | groups).items()}
