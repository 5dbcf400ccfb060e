"""What the checkpoints of a run scored over time: where each stands, the last and the best figure. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pineco.evals.data.tasks import Task
from pineco.evals.results.averages import Average, asked_sets, average
from pineco.evals.results.results import EvalReport, EvalResult


@dataclass(frozen=True)
class Curve:
    name: str
    points: tuple[tuple[float, float], ...]  # (x >= 0, share in [0, 1]), x ascending, at least one
    chance: float  # share in [0, 1]


@dataclass(frozen=True)
class AverageOverTime:
    """The average over one set of tasks at every checkpoint, in the order of training."""

    name: str
    points: tuple[Average, ...]

    @property
    def refused(self) -> tuple[int, ...]:
        """Numbers of the checkpoints that have none."""
        return tuple(number for number, point in enumerate(self.points) if point.value is None)


@dataclass(frozen=True)
class History:
    """Reports of one run, at least one, in the order of training."""

    reports: tuple[EvalReport, ...]
    axis: str  # what `places` count
    places: tuple[float, ...]  # one a report

    @property
    def last(self) -> EvalReport:
        return self.reports[-1]

    @property
    def tasks(self) -> list[str]:
        """Every task that was measured at some checkpoint, in the order in which they first came."""
        return list(dict.fromkeys(result.task for report in self.reports for result in report.results))

    def of(self, task: str) -> list[EvalResult | None]:
        """One a checkpoint; None where the task was not measured there."""
        return [report.by_task.get(task) for report in self.reports]

    def best(self, task: str) -> int:
        """Number of the checkpoint with the highest main metric, the earliest of equals."""
        values = [(result.value if result else -1.0) for result in self.of(task)]
        return values.index(max(values))

    def curve(self, task: str) -> Curve:
        points = [(x, r) for x, r in zip(self.places, self.of(task), strict=True) if r is not None]
        return Curve(task, tuple((x, r.value) for x, r in points), points[-1][1].value_of_chance)

    def averages(self, table: Mapping[str, Task], *, partial: bool = False) -> list[AverageOverTime]:
        """Over the sets of `pineco.evals.results.averages.asked_sets`; a partial one is over what every checkpoint has.

        Each point of a partial curve is thus over the same tasks, and the curve moves only where the model does.
        """
        every = set.intersection(*(set(report.by_task) for report in self.reports))
        asked = dict.fromkeys(
            task for report in self.reports for task in (*report.by_task, *report.failed, *report.missing)
        )
        sets = asked_sets(self.last.selection, list(asked), self.last.by_task, table)
        curves = []
        for name, members in sets.items():
            points = [
                average(name, members, _only(report, every) if partial else report.by_task, partial=partial)
                for report in self.reports
            ]
            curves.append(AverageOverTime(name, tuple(points)))
        return curves


def history(reports: Sequence[EvalReport]) -> History:
    """Places are samples seen, else steps, else 1, 2, 3 ..."""
    axis, places = _places(reports)
    return History(tuple(reports), axis, tuple(places))


def _only(report: EvalReport, tasks: set[str]) -> dict[str, EvalResult]:
    return {task: result for task, result in report.by_task.items() if task in tasks}


def _places(reports: Sequence[EvalReport]) -> tuple[str, list[float]]:
    samples = [report.samples_seen for report in reports if report.samples_seen is not None]
    if len(samples) == len(reports):
        return "samples seen", [float(n) for n in samples]
    steps = [report.step for report in reports if report.step is not None]
    if len(steps) == len(reports):
        return "step", [float(n) for n in steps]
    return "checkpoint", [float(n) for n in range(1, len(reports) + 1)]
