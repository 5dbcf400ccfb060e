"""Two or more models on the same images: what a comparison holds. Plain numbers, pure, torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pineco.evals.data.names import few
from pineco.evals.results.averages import Average
from pineco.evals.results.results import EvalReport, EvalResult

Verdict = Literal["win", "tie", "loss"]
COMMON = "common tasks"  # name of the set of all tasks that every run has


class Gap(NamedTuple):
    """Main metric of a run less that of the baseline, with its 95 % interval, in [-1, 1]."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """A tie where the interval holds 0."""
        if self.low <= 0 <= self.high:
            return "tie"
        return "win" if self.low > 0 else "loss"


class Totals(NamedTuple):
    """In how many tasks a run is better than the baseline, not told apart from it, or worse."""

    win: int
    tie: int
    loss: int


class Spread(NamedTuple):
    """Runs of one method that differ in their seed: mean, and sample standard deviation where there are two or more."""

    runs: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class ComparedTask:
    """Of the baseline and at least one other run."""

    first: EvalResult  # of the baseline
    others: tuple[EvalResult | None, ...]  # one a run but the baseline; None where it lacks the task
    gaps: tuple[Gap | None, ...]  # one a run but the baseline

    @property
    def task(self) -> str:
        return self.first.task

    @property
    def label(self) -> str:
        return self.task

    @property
    def results(self) -> tuple[EvalResult | None, ...]:
        """One a run."""
        return (self.first, *self.others)

    @property
    def values(self) -> tuple[float | None, ...]:
        return tuple(None if result is None else result.value for result in self.results)


@dataclass(frozen=True)
class ComparedAverage:
    """Over those tasks of a set that the baseline and another run have, for all other runs that have the same ones."""

    first: Average  # of the baseline; its value is None where the average is refused
    others: tuple[Average | None, ...]  # one a run but the baseline; None for a run that has other tasks
    gaps: tuple[Gap | None, ...]  # one a run but the baseline; None as well where the average is refused
    runs: tuple[str, ...] = ()  # names of the others that it is of, where it is not of all

    @property
    def label(self) -> str:
        of = f" ({', '.join(self.runs)})" if self.runs else ""
        refused = f": refused, lacks {few(self.missing)}" if self.first.value is None else ""
        return f"{self.first.label}{of}{refused}"

    @property
    def missing(self) -> tuple[str, ...]:
        return self.first.missing

    @property
    def values(self) -> tuple[float | None, ...]:
        return tuple(None if average is None else average.value for average in (self.first, *self.others))


@dataclass(frozen=True)
class Comparison:
    """The first run is the baseline."""

    runs: tuple[str, ...]
    methods: tuple[str, ...]  # one a run; runs of one method differ in their seed alone
    reports: tuple[EvalReport, ...]
    tasks: tuple[ComparedTask, ...]
    averages: tuple[ComparedAverage, ...]
    left_out: Mapping[str, tuple[str, ...]]  # by task that some run has: the runs that lack it
    notes: tuple[str, ...]  # in what else than the weights the runs differ
    draws: int  # of the bootstrap
    seed: int
    unchecked: tuple[str, ...] = ()  # tasks of which it is not known whether all saw the same images

    @property
    def others(self) -> tuple[str, ...]:
        """All runs but the baseline."""
        return self.runs[1:]

    def totals(self, other: int) -> Totals:
        """Of `others[other]`."""
        verdicts = [gap.verdict for task in self.tasks if (gap := task.gaps[other]) is not None]
        return Totals(verdicts.count("win"), verdicts.count("tie"), verdicts.count("loss"))

    @property
    def has_seeds(self) -> bool:
        """Some method has more than one run."""
        return len(set(self.methods)) < len(self.methods)

    def over_seeds(self, values: Sequence[float | None]) -> dict[str, Spread]:
        """By method, of one figure a run; a method of which no run has one is left out."""
        by_method: dict[str, list[float]] = {}
        for method, value in zip(self.methods, values, strict=True):
            if value is not None:
                by_method.setdefault(method, []).append(value)
        return {method: spread(found) for method, found in by_method.items()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        named = list(zip(self.runs, self.methods, self.reports, strict=True))
        return {
            "baseline": self.runs[0],
            "runs": [
                {
                    "name": name,
                    "method": method,
                    "model": report.model,
                    "identity": report.identity,
                    "step": report.step,
                }
                for name, method, report in named
            ],
            "bootstrap": {"draws": self.draws, "seed": self.seed, "interval": 0.95},
            "totals": {name: self.totals(number)._asdict() for number, name in enumerate(self.others)},
            "averages": [self._average(average) for average in self.averages],
            "tasks": [self._task(task) for task in self.tasks],
            "left_out": {task: list(lacking) for task, lacking in self.left_out.items()},
            "notes": list(self.notes),
        }

    def _task(self, task: ComparedTask) -> dict[str, Any]:
        about = {
            "task": task.task,
            "metric": task.first.main_metric,
            "chance": task.first.value_of_chance,
            "samples": task.first.samples,
            "images_checked": task.task not in self.unchecked,
        }
        return about | self._figures(task.values, task.gaps)

    def _average(self, average: ComparedAverage) -> dict[str, Any]:
        about = {"label": average.label, "tasks": list(average.first.measured), "missing": list(average.missing)}
        return about | self._figures(average.values, average.gaps)

    def _figures(self, values: Sequence[float | None], gaps: Sequence[Gap | None]) -> dict[str, Any]:
        differences = {
            name: gap._asdict() | {"verdict": gap.verdict}
            for name, gap in zip(self.others, gaps, strict=True)
            if gap is not None
        }
        seeds = {method: found._asdict() for method, found in self.over_seeds(values).items()} if self.has_seeds else {}
        return {
            "values": dict(zip(self.runs, values, strict=True)),
            "differences": differences,
            **({"methods": seeds} if seeds else {}),
        }


def spread(values: Sequence[float]) -> Spread:
    """Over at least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(len(values), statistics.fmean(values), deviation)
