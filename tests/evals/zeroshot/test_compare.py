"""Comparisons: pairs of the same images, and nothing that only looks like them."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.tasks import Task
from pineco.evals.report.comparison import terminal_comparison, write_comparison
from pineco.evals.results.comparison import ComparedAverage, ComparedTask, Comparison, Gap, spread
from pineco.evals.results.results import EvalReport, EvalResult
from pineco.evals.zeroshot.classification import ClassificationOutcomes
from pineco.evals.zeroshot.compare import compare, outcomes_path
from pineco.evals.zeroshot.intervals import difference
from pineco.evals.zeroshot.outcomes import chance, load_outcomes, metrics, save_outcomes
from tests.support.terminal import printed

CLASSES, IMAGES = 10, 200
Measured = tuple[EvalReport, Path]
Make = Callable[..., Measured]


def task(key: str, group: str) -> Task:
    tags = ("all",)
    return Task(
        key=key, kind="classification", size=IMAGES, classes=CLASSES, main_metric="acc1", group=group, tags=tags
    )


TABLE = {t.key: t for t in (task("g/a", "g"), task("g/b", "g"), task("c", "h"))}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A report with outcomes in which a share of the images is right by task, the same images first."""

    def made(name: str, right: Mapping[str, float], *, label: int = 0, data: str = "d" * 64, **about: str) -> Measured:
        folder = tmp_path / name
        folder.mkdir()
        results = []
        for key, share in right.items():
            labels = (torch.arange(IMAGES) + label) % CLASSES
            ranks = (torch.arange(IMAGES) >= round(share * IMAGES)).long() * 7
            outcomes = ClassificationOutcomes(labels=labels, ranks=ranks, classes=CLASSES)
            save_outcomes(outcomes_path(folder, key), outcomes)
            results.append(
                EvalResult(
                    task=key,
                    main_metric="acc1",
                    metrics=metrics(outcomes),
                    chance=chance(outcomes),
                    samples=IMAGES,
                    full_size=IMAGES,
                    seconds=1.0,
                    data=data,
                )
            )
        values: dict[str, Any] = {"model": name, "identity": f"sha256:{name}", "selection": "all"} | about
        return EvalReport(results=tuple(results), **values), folder

    return made


@pytest.fixture
def two(make: Make) -> dict[str, Measured]:
    return {
        "random": make("random", {"g/a": 0.3, "g/b": 0.5, "c": 0.4}),
        "better": make("better", {"g/a": 0.5, "g/b": 0.505, "c": 0.2}),
    }


def compared(reports: Mapping[str, Measured], **options: Any) -> Comparison:
    return compare(reports, table=TABLE, draws=200, **options)


def gap(row: ComparedTask | ComparedAverage) -> Gap:
    """The difference of the first run after the baseline."""
    found = row.gaps[0]
    assert found is not None
    return found


def test_differences_are_those_of_the_paired_bootstrap(two: dict[str, Measured]) -> None:
    """A verdict would rest on unpaired figures, or the sign be that of the baseline."""
    found = compared(two)
    assert [t.task for t in found.tasks] == ["g/a", "g/b", "c"]
    assert [t.values for t in found.tasks] == [(0.3, 0.5), (0.5, 0.505), (0.4, 0.2)]
    assert [gap(t).value for t in found.tasks] == pytest.approx([0.2, 0.005, -0.2])
    assert [gap(t).verdict for t in found.tasks] == ["win", "tie", "loss"]
    assert found.totals(0) == (1, 1, 1)
    better, random = (load_outcomes(outcomes_path(two[name][1], "g/a")) for name in ("better", "random"))
    assert gap(found.tasks[0]) == tuple(difference(better, random, "acc1", seed=0, draws=200))


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [((0.1, 0.0, 0.2), "tie"), ((0.1, 0.01, 0.2), "win"), ((-0.1, -0.2, -0.01), "loss"), ((0.0, 0.0, 0.0), "tie")],
)
def test_a_tie_is_an_interval_that_holds_0(gap: tuple[float, float, float], verdict: str) -> None:
    """Equal models would win against each other."""
    assert Gap(*gap).verdict == verdict


def test_an_incomplete_average_is_refused_unasked(make: Make) -> None:
    """An average over two of three tasks would stand there as if somebody had asked for it."""
    reports = {"a": make("a", {"g/a": 0.3, "g/b": 0.5, "c": 0.9}), "b": make("b", {"g/a": 0.5, "g/b": 0.5})}
    whole, part = compared(reports).averages
    assert (whole.label, whole.values, whole.gaps) == ("all: refused, lacks c", (None, None), (None,))
    assert part.label == "g"
    assert part.values == pytest.approx((0.4, 0.5))


def test_a_pair_is_averaged_over_what_both_of_it_have(make: Make, tmp_path: Path) -> None:
    """One incomplete run would take a task away from the others, or be averaged over fewer tasks unasked."""
    shares = {"g/a": 0.3, "g/b": 0.5, "c": 0.4}
    reports = {name: make(name, shares) for name in ("a", "b")} | {"cut": make("cut", {"g/a": 0.5, "g/b": 0.5})}
    found = compared(reports)
    assert [task.task for task in found.tasks] == ["g/a", "g/b", "c"]
    assert found.tasks[2].values == (0.4, 0.4, None)
    assert (found.totals(0), sum(found.totals(1))) == ((0, 3, 0), 2)
    whole, refused, *_ = found.averages
    assert whole.label == "all (b)"
    assert whole.values == pytest.approx((0.4, 0.4, None))
    assert (refused.label, refused.values) == ("all (cut): refused, lacks c", (None, None, None))
    asked = compared(reports, partial=True).averages[1]
    assert asked.label == "all, over 2 of 3 (cut)"
    assert asked.values == pytest.approx((0.4, None, 0.5))
    markdown = write_comparison(tmp_path / "out", found)
    assert "| all (cut): refused, lacks c | - | - | - | - | - | - | - | - | - | c |" in markdown.read_text()
    assert "| c | 40.00% | 40.00% | +0.00 | +0.00 to +0.00 | tie | - | - | - | - |" in markdown.read_text()
    assert "all (cut): refused,<wbr> lacks c" in markdown.with_suffix(".html").read_text()
    data = json.loads(markdown.with_suffix(".json").read_text())
    assert data["averages"][1]["values"] == {"a": None, "b": None, "cut": None}
    assert list(data["tasks"][2]["differences"]) == ["b"]
    of_b, of_cut = printed(terminal_comparison(found), width=100).split("cut against a")
    assert "lacks c" not in of_b
    assert "lacks c" in of_cut
    assert "0 won, 3 tied, 0 lost of 3" in of_b


def test_averages_are_over_the_common_tasks_and_say_so(make: Make) -> None:
    """One run's average over three tasks would be compared with another's over two."""
    reports = {"a": make("a", {"g/a": 0.3, "g/b": 0.5, "c": 0.9}), "b": make("b", {"g/a": 0.5, "g/b": 0.5})}
    found = compared(reports, partial=True)
    assert found.left_out == {"c": ("b",)}
    assert [average.label for average in found.averages] == ["all, over 2 of 3", "g"]
    for average in found.averages:
        assert average.values == pytest.approx((0.4, 0.5))
        assert gap(average).value == pytest.approx(0.1)
    whole = found.averages[0]
    assert whole.missing == ("c",)
    first, second = (gap(t) for t in found.tasks)
    below = ((0.2 - first.low) ** 2 + (0.0 - second.low) ** 2) ** 0.5 / 2
    assert gap(whole).low == pytest.approx(0.1 - below)


def test_the_average_over_a_free_choice_says_what_it_lacks(make: Make) -> None:
    """Two of three tasks would be called all tasks."""
    reports = {name: make(name, {"g/a": 0.3, "c": 0.5}, selection="g/a,c,own") for name in "ab"}
    reports["b"] = (replace(reports["b"][0], missing=("own",)), reports["b"][1])
    assert compared(reports).averages[0].label == "all tasks: refused, lacks own"
    found = compared(reports, partial=True)
    assert [(average.label, average.missing) for average in found.averages] == [("all tasks, over 2 of 3", ("own",))]
    assert found.left_out == {"own": ("a", "b")}


def test_what_one_run_failed_at_is_left_out_by_name(two: dict[str, Measured]) -> None:
    """A task on which a run broke down would silently count for nobody."""
    report, folder = two["better"]
    two["better"] = (replace(report, results=report.results[:2], failed={"c": "shard 3 is cut"}), folder)
    assert compared(two).left_out == {"c": ("better",)}


def test_other_labels_are_refused(make: Make) -> None:
    """Two models would be compared on different images."""
    reports = {"a": make("a", {"c": 0.3}), "b": make("b", {"c": 0.5}, label=1)}
    with pytest.raises(InputError, match=r"c, a and b: .*their labels differ"):
        compared(reports)


def test_other_images_are_refused(make: Make) -> None:
    """Two models would be compared on different images whose labels go round the classes in the same way."""
    reports = {"a": make("a", {"c": 0.3}, data="1" * 64), "b": make("b", {"c": 0.5}, data="2" * 64)}
    with pytest.raises(InputError, match=r"c, a and b: they were measured on different images \(data 1{12} and 2{12}"):
        compared(reports)


def test_reports_without_a_digest_are_compared_with_a_note(make: Make, tmp_path: Path) -> None:
    """An old report could not be compared any more, or the page would claim what nobody checked."""
    found = compared({"a": make("a", {"c": 0.3}, data=""), "b": make("b", {"c": 0.5})})
    note = "the images of c could not be checked to be the same"
    assert found.unchecked == ("c",)
    markdown = write_comparison(tmp_path / "out", found)
    page = markdown.with_suffix(".html").read_text()
    assert note in markdown.read_text()
    assert note in page
    assert "measured on images that could not all be checked" in page
    assert json.loads(markdown.with_suffix(".json").read_text())["tasks"][0]["images_checked"] is False
    assert note in printed(terminal_comparison(found), width=200)


def test_outcomes_of_another_report_are_refused(two: dict[str, Measured]) -> None:
    """The figures would be of one model and the differences of another."""
    with pytest.raises(InputError, match=r"better: .*g-a.safetensors gives acc1 0.3\d*, its report 0.5"):
        compared({"random": two["random"], "better": (two["better"][0], two["random"][1])})


def test_missing_and_damaged_outcomes_are_named(two: dict[str, Measured]) -> None:
    """A traceback, or worse a comparison of what is left."""
    path = outcomes_path(two["better"][1], "g/b")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"g-b\.safetensors: no outcomes of ours, or damaged"):
        compared(two)
    path.unlink()
    with pytest.raises(InputError, match=r"better: .*g-b\.safetensors is missing"):
        compared(two)


def test_reports_without_a_common_task_are_refused(make: Make) -> None:
    """An empty table would look like a draw."""
    with pytest.raises(InputError, match="no task was measured for both a and b"):
        compared({"a": make("a", {"c": 0.3}), "b": make("b", {"g/a": 0.5})})
    with pytest.raises(InputError, match="two runs"):
        compared({"a": make("only", {"c": 0.3})})


def test_other_main_metrics_are_refused(two: dict[str, Measured]) -> None:
    """An accuracy would be compared with a mean recall."""
    report, folder = two["better"]
    first = replace(report.results[0], main_metric="mean_per_class_recall")
    two["better"] = (replace(report, results=(first, *report.results[1:])), folder)
    with pytest.raises(InputError, match="main metrics acc1 and mean_per_class_recall"):
        compared(two)


def test_notes_say_what_else_differs(two: dict[str, Measured]) -> None:
    """A difference of prompts or precision would be taken for one of the models."""
    assert compared(two).notes == ()
    report, folder = two["better"]
    rows = (replace(report.results[0], prompts="folder", full_size=9999), *report.results[1:])
    two["better"] = (replace(report, results=rows, precision="bf16", identity="sha256:random"), folder)
    assert compared(two).notes == (
        "precision differ: random fp32; better bf16",
        "prompts of g/a differ: random none; better folder",
        "measured on a part of their images: g/a",
        "better has the same weights as random",
    )


def test_seeds_of_a_method(make: Make) -> None:
    """A method of three seeds would stand for its luckiest one."""
    shares = {"r0": 0.3, "r1": 0.4, "p0": 0.5}
    found = compared({name: make(name, {"c": share}) for name, share in shares.items()}, methods=["r", "r", "p"])
    assert found.has_seeds
    spreads = found.over_seeds(found.tasks[0].values)
    assert spreads["r"].runs == 2
    assert spreads["r"][1:] == pytest.approx((0.35, 0.05 * 2**0.5))
    assert spreads["p"] == (1, 0.5, None)
    assert spread([0.1, 0.2, 0.6]).mean == pytest.approx(0.3)
    assert not compared({name: make(f"{name}x", {"c": share}) for name, share in shares.items()}).has_seeds


def test_files(two: dict[str, Measured], tmp_path: Path) -> None:
    """The files would not say what was compared, or disagree."""
    found = compared(two, methods=["m", "m"])
    markdown = write_comparison(tmp_path / "out", found)
    assert sorted(p.name for p in markdown.parent.iterdir()) == ["comparison.html", "comparison.json", "comparison.md"]
    text = markdown.read_text()
    assert "| better | 1 | 1 | 1 |" in text
    assert "| g/a | 30.00% | 50.00% | +20.00 |" in text
    assert "| c | 30.00% ± 14.14 (2) |" in text
    data = json.loads(markdown.with_suffix(".json").read_text())
    assert data["baseline"] == "random"
    assert data["totals"] == {"better": {"win": 1, "tie": 1, "loss": 1}}
    assert data["tasks"][0]["differences"]["better"]["verdict"] == "win"
    assert data["bootstrap"] == {"draws": 200, "seed": 0, "interval": 0.95}
    page = markdown.with_suffix(".html").read_text()
    assert "+20.00" in page


def test_terminal_has_a_table_a_run(make: Make) -> None:
    """Figures would be broken in two where three runs and long names meet a terminal of 80 columns."""
    name = "g/" + "a_very_long_name_of_a_task" * 2
    reports = {run: make(run, {name: share, "c": 0.2}) for run, share in (("r", 0.3), ("s", 0.5), ("t", 0.1))}
    text = printed(terminal_comparison(compared(reports)), width=80)
    assert "s against r: 1 won, 1 tied, 0 lost of 2" in text
    assert "t against r: 0 won, 1 tied, 1 lost of 2" in text
    for row in (r"30\.00% +50\.00% +\+20\.00 +\+[\d.]+ to \+[\d.]+ +win", r"30\.00% +10\.00% +-20\.00 .* loss"):
        assert re.search(row, text)


def test_progress_hears_every_task(two: dict[str, Measured]) -> None:
    """A comparison of 31 tasks would be silent for minutes."""
    heard: list[str] = []
    compared(two, progress=heard.append)
    assert heard == ["g/a", "g/b", "c"]
