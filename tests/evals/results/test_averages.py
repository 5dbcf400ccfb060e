"""Averages: over all of a set, or refused by name."""

import math
import random
import statistics
from dataclasses import replace

import pytest

from pineco.evals.data.tasks import Task, load_tasks
from pineco.evals.results.averages import ALL, asked_sets, average, averages, mean_interval
from pineco.evals.results.results import EvalReport, EvalResult


def result(task: str, value: float, interval: tuple[float, float] | None = None) -> EvalResult:
    return EvalResult(
        task=task,
        main_metric="acc1",
        metrics={"acc1": value},
        chance={"acc1": 0.1},
        samples=100,
        full_size=None,
        seconds=1.0,
        intervals={"acc1": interval} if interval else {},
    )


def task(key: str, group: str, *tags: str) -> Task:
    return Task(key=key, kind="classification", size=100, classes=10, main_metric="acc1", group=group, tags=tags)


TABLE = {t.key: t for t in (task("a", "g", "all"), task("b", "g", "all"), task("c", "h", "all"), task("d", "h"))}


def report(selection: str, *tasks: str, missing: tuple[str, ...] = (), failed: tuple[str, ...] = ()) -> EvalReport:
    results = tuple(result(name, 0.1 * (number + 1)) for number, name in enumerate(tasks))
    return EvalReport(
        model="m",
        identity="i",
        results=results,
        selection=selection,
        missing=missing,
        failed=dict.fromkeys(failed, "why"),
    )


def test_a_complete_set_has_an_average() -> None:
    """The figure that stands for a model would be wrong."""
    found = average("g", ("a", "b"), {"a": result("a", 0.2), "b": result("b", 0.5), "c": result("c", 0.9)})
    assert found.value == pytest.approx(0.35)
    assert found.chance == pytest.approx(0.1)
    assert (found.label, found.missing, found.interval) == ("g", (), None)


def test_an_incomplete_set_is_refused_and_says_what_it_lacks() -> None:
    """An average over the easy half would be compared with one over all."""
    found = average("all", ("a", "b", "c"), {"b": result("b", 0.5)})
    assert (found.value, found.interval, found.chance) == (None, None, None)
    assert (found.missing, found.label) == (("a", "c"), "all")


def test_a_partial_average_is_labelled() -> None:
    """The one that was asked for would look like the whole."""
    results = {"b": result("b", 0.5), "c": result("c", 0.3)}
    found = average("all", ("a", "b", "c"), results, partial=True)
    assert found.value == pytest.approx(0.4)
    assert (found.label, found.missing) == ("all, over 2 of 3", ("a",))
    assert average("all", ("a",), results, partial=True).value is None


def test_tasks_measured_on_a_part_of_their_images_are_named() -> None:
    """An average over samples of benchmarks would be taken for that of the benchmarks."""
    found = average("g", ("a", "b"), {"a": replace(result("a", 0.2), full_size=1000), "b": result("b", 0.5)})
    assert found.parts == ("a",)
    assert found.to_dict()["on_a_part_of_their_images"] == ["a"]


def test_the_interval_of_a_mean_is_that_of_independent_normal_errors() -> None:
    """An average would look surer, or less sure, than it is: checked against the spread of simulated means."""
    deviations = [0.01, 0.03, 0.002]
    pairs = [(0.5 - 1.96 * d, 0.5 + 1.96 * d) for d in deviations]
    low, high = mean_interval([0.5] * 3, pairs)
    generator = random.Random(3)
    means = [statistics.fmean(generator.gauss(0.5, d) for d in deviations) for _ in range(20000)]
    assert (high - low) / 2 == pytest.approx(1.96 * statistics.stdev(means), rel=0.03)
    assert (high + low) / 2 == pytest.approx(0.5)


def test_the_interval_of_a_mean_keeps_its_skew() -> None:
    """Near 0 the upper side is the wider one."""
    low, high = mean_interval([0.1, 0.1], [(0.07, 0.14), (0.06, 0.13)])
    assert low == pytest.approx(0.1 - math.hypot(0.03, 0.04) / 2)
    assert high == pytest.approx(0.1 + math.hypot(0.04, 0.03) / 2)


def test_an_average_has_an_interval_only_where_every_task_has() -> None:
    """Tasks without an interval would count as exact."""
    known = {"a": result("a", 0.2, (0.1, 0.3)), "b": result("b", 0.5, (0.4, 0.6))}
    assert average("g", ("a", "b"), known).interval is not None
    assert average("g", ("a", "b"), known | {"b": result("b", 0.5)}).interval is None


@pytest.mark.parametrize(
    ("selection", "measured", "expected"),
    [
        ("all", "ab", {"all": "abc", "g": "ab"}),  # what was asked for first, then what is whole
        ("g+h", "a", {"g": "ab", "h": "cd"}),
        ("all, d", "abcd", {"all": "abc", "g": "ab", "h": "cd"}),
        ("a,b", "ab", {"g": "ab"}),  # is a group, if not by name
        ("a,c", "ac", {ALL: "ac"}),
        ("", "ac", {ALL: "ac"}),  # of schema 1
        ("a", "a", {}),
    ],
)
def test_which_sets_are_averaged(selection: str, measured: str, expected: dict[str, str]) -> None:
    """A set that was asked for would be forgotten where it is incomplete, or one that nobody named be shown."""
    found = asked_sets(selection, list(measured), measured, TABLE)
    assert found == {name: tuple(tasks) for name, tasks in expected.items()}
    assert list(found) == list(expected)


def test_what_has_no_data_or_failed_is_missing_from_the_average() -> None:
    """A failed task would silently drop out of the set that it belongs to."""
    [found] = averages(report("a,c,d", "a", missing=("d",), failed=("c",)), TABLE)
    assert (found.name, found.value, found.missing) == (ALL, None, ("c", "d"))
    [partial] = averages(report("a,c,d", "a", missing=("d",), failed=("c",)), TABLE, partial=True)
    assert partial.label == "all tasks, over 1 of 3"


def test_paper29_has_29_members() -> None:
    """The average of the paper would be over other benchmarks."""
    table = load_tasks()
    keys = [t.key for t in table.values() if "paper29" in t.tags]
    whole, *_ = averages(report("paper29+paper2", *keys[:9]), table, partial=True)
    assert whole.label == "paper29, over 9 of 29"
    missing = average("paper29", keys, {key: result(key, 0.5) for key in keys[1:]})
    assert (missing.value, missing.missing) == (None, (keys[0],))
