"""Report files: what is written can be read, by machines and by people."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.evals.report import write as report
from pineco.evals.report.formats import compact, nice_ticks
from pineco.evals.report.markdown import results_table
from pineco.evals.results.averages import averages
from pineco.evals.results.over_training import history
from pineco.evals.results.provenance import commit
from pineco.evals.results.results import EvalReport, EvalResult
from tests.support.terminal import printed


def result(task: str, value: float, chance: float = 0.1) -> EvalResult:
    return EvalResult(
        task=task,
        main_metric="acc1",
        metrics={"acc1": value},
        chance={"acc1": chance},
        samples=2000,
        full_size=10000 if task == "cifar10" else None,
        seconds=1.5,
    )


def one_report(samples_seen: int | None = None, **values: float) -> EvalReport:
    return EvalReport(
        model="m",
        identity="sha256:00",
        results=tuple(result(task, value) for task, value in values.items()),
        samples_seen=samples_seen,
        commit="abc",
        versions={"torch": "2"},
        hardware="cpu",
    )


RUN = [
    one_report(0, cifar10=0.1, own=0.2),
    one_report(1500, cifar10=0.6),
    one_report(3000, cifar10=0.5, own=0.3),
]


def full_report() -> EvalReport:
    """What a second schema holds more than the first."""
    measured = replace(result("cifar10", 0.6), intervals={"acc1": (0.55, 0.64)}, prompts="folder + cupl.json")
    return replace(
        one_report(),
        results=(measured, result("own", 0.05)),
        selection="cifar10,own,cars,gtsrb",
        missing=("cars",),
        failed={"gtsrb": "shard 3 | is cut"},
        precision="bf16",
        seconds=75.2,
    )


def test_table_shows_interval_chance_and_partial_data() -> None:
    """A figure would stand alone, or one of a fifth of a benchmark would be taken for the whole."""
    table = results_table(full_report()).splitlines()
    shown = "| cifar10 | acc1 | 60.00% | 55.00 to 64.00 | 10.00% | 6.0x | 2,000 of 10,000 | folder + cupl.json | 1.5 |"
    assert table[2] == shown
    assert table[3] == "| own | acc1 | 5.00% | - | 10.00% | 0.5x | 2,000 |  | 1.5 |"


def test_a_task_that_guessing_cannot_score_has_no_multiple_of_chance() -> None:
    """One such task would take the report down."""
    assert "| 20.00% | - | 0.00% | - |" in results_table(replace(one_report(), results=(result("own", 0.2, 0.0),)))


def test_terminal_table_loses_nothing_on_a_narrow_terminal() -> None:
    """Long names and figures would be cut where output goes to a pipe of 80 columns."""
    name = "vtab/clevr_closest_object_distance"
    long = replace(result(name, 0.25), intervals={"acc1": (0.24, 0.26)}, full_size=10000)
    text = printed(report.terminal_table(replace(one_report(), results=(long,))), width=80)
    assert "25.00%" in text
    assert "24.0-26.0" in text
    assert "2,000 of 10,000" in text
    shown = re.sub(r"\s", "", text)
    for cell in ("acc1", "25.00%", "24.0-26.0", "10.00%", "2.5x", "2,000of10,000"):
        shown = shown.replace(cell, "")
    assert name in shown


def test_terminal_table_has_averages_and_what_failed() -> None:
    """Who only looks at the terminal would not see that half of what was asked for is missing."""
    text = printed(report.terminal_table(full_report()), width=100)
    assert re.search(r"all tasks +average +refused .*2 of 4", text)
    assert "gtsrb failed: shard 3 | is cut" in text
    assert "no data here: cars" in text
    assert "all tasks: measured on a part of their images: cifar10" in text
    partial = printed(report.terminal_table(full_report(), partial_average=True), width=100)
    assert re.search(r"all tasks, over 2 of 4 +average +32.50%", partial)


def test_names_are_not_taken_for_markup_on_the_terminal() -> None:
    """A task called [red] would vanish from the table."""
    odd = replace(one_report(), model="[bold]m", results=(result("[red]x", 0.2),))
    text = printed(report.terminal_table(odd), width=80)
    assert "[red]x" in text
    assert "[bold]m" in text


def test_write_report_writes_all_files(tmp_path: Path) -> None:
    """The report for people and the one for machines would not belong together."""
    path = tmp_path / "r.json"
    path.write_text("old")
    markdown = report.write_report(path, full_report())
    assert markdown == tmp_path / "r.md"
    assert report.read_reports(path) == [full_report()]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.json", "r.md"]
    text = markdown.read_text()
    assert "| all tasks | refused | - | - | 2 of 4: gtsrb, cars; measured on a part of their images: cifar10 |" in text
    assert "| gtsrb | shard 3 \\| is cut |" in text
    assert "| cars | no data here |" in text
    for row in ("| weights | sha256:00 |", "| precision | bf16 |", "| evaluation | 1 min 15 s |"):
        assert row in text
    report.write_report(path, full_report(), partial_average=True)
    assert "| all tasks, over 2 of 4 | 32.50% |" in markdown.read_text()


def test_the_json_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed here would count as measured, without the files for people."""
    order: list[str] = []
    write = report.write_text_atomically

    def listed(path: Path, text: str) -> None:
        order.append(path.name)
        write(path, text)

    monkeypatch.setattr(report, "write_text_atomically", listed)
    report.write_report(tmp_path / "r.json", RUN[0])
    report.write_run_report(tmp_path, RUN, title="t", details={})
    assert order == ["r.md", "r.html", "r.json", "curve.svg", "report.md", "report.html", "report.json"]


def test_a_report_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Nobody would know which of many files is damaged."""
    path = tmp_path / "r.json"
    with pytest.raises(InputError, match=r"r\.json: cannot be read"):
        report.read_reports(path)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"r\.json: report: lacks"):
        report.read_reports(path)


def test_scalars() -> None:
    """A figure would stand under another name than in the report, or a refused average be drawn as a number."""
    two = replace(full_report(), missing=(), failed={}, selection="cifar10,own")
    expected = {"eval/cifar10/acc1": 0.6, "eval/own/acc1": 0.05}
    assert report.report_scalars(two) == expected
    whole = report.report_scalars(two, averages(two, {}))
    assert whole == {**expected, "eval/average/all tasks": pytest.approx(0.325)}
    assert report.report_scalars(full_report(), averages(full_report(), {})) == expected


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A crash would leave half a report and destroy the one before it."""
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        report.write_text_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_run_report(tmp_path: Path) -> None:
    """The report of a run would name a wrong best checkpoint, or lose a task that was not always measured."""
    path = report.write_run_report(tmp_path / "new", RUN, title="A | run", details={"recipe": "x|y"})
    text = path.read_text()
    assert text.startswith("# A \\| run\n")
    assert "![Zero-shot figures over training, chance dashed](curve.svg)" in text
    assert "| cifar10 | acc1 | 50.00% | - | 10.00% | 5.0x | 2,000 of 10,000 |  | 1.5k (60.00%) |" in text
    assert "| samples seen | all tasks | cifar10 | own | time |" in text
    assert "| 1.5k | - | **60.00%** | - | - |" in text
    assert "| 3k | 40.00% | 50.00% | **30.00%** | - |" in text
    assert "| recipe | x\\|y |" in text
    assert report.read_reports(path.with_name("report.json")) == RUN
    assert sorted(p.name for p in path.parent.iterdir()) == ["curve.svg", "report.html", "report.json", "report.md"]


def test_a_figure_of_an_earlier_checkpoint_is_not_that_of_the_last(tmp_path: Path) -> None:
    """What the last checkpoint never measured would stand in its table."""
    text = report.write_run_report(tmp_path, RUN[:2], title="t", details={}).read_text()
    assert "| own | acc1 | - | - | - | - | - | - | 0 (20.00%) |" in text


def test_a_partial_average_over_time_is_over_the_same_tasks_everywhere() -> None:
    """The curve would jump where a hard task is missing from a checkpoint."""
    [over_time] = history(RUN).averages({}, partial=True)
    assert [point.value for point in over_time.points] == pytest.approx([0.1, 0.6, 0.5])
    assert {point.measured for point in over_time.points} == {("cifar10",)}
    [whole] = history(RUN).averages({})
    assert [point.value for point in whole.points] == [pytest.approx(0.15), None, pytest.approx(0.4)]
    assert (whole.refused, whole.points[1].missing) == ((1,), ("own",))


def test_run_report_without_samples_seen_counts_steps_or_checkpoints(tmp_path: Path) -> None:
    """Checkpoints of unknown age would all stand at the same place."""
    steps = [replace(one_report(own=0.2), step=step) for step in (10, 20)]
    assert "| step | own | time |" in report.write_run_report(tmp_path, steps, title="t", details={}).read_text()
    bare = [one_report(own=0.2), one_report(own=0.3)]
    assert "| checkpoint | own | time |" in report.write_run_report(tmp_path, bare, title="t", details={}).read_text()


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    """An empty report would look like a run that was measured."""
    with pytest.raises(InputError, match="nothing to report"):
        report.write_run_report(tmp_path / "new", [], title="t", details={})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0.83, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, [0, 1])],
)
def test_ticks_are_round(largest: float, expected: list[float]) -> None:
    """Axes would have crooked numbers or end below the data."""
    assert nice_ticks(largest, 6) == pytest.approx(expected)


@pytest.mark.parametrize("largest", [1e-4, 0.011, 3, 7.0, 99, 12800, 1.5e10])
def test_ticks_cover_the_data(largest: float) -> None:
    """A line would leave the picture."""
    ticks = nice_ticks(largest, 6)
    assert ticks[-2] < largest <= ticks[-1] * (1 + 1e-9)
    assert len(ticks) <= 7


def test_numbers_are_short() -> None:
    """Tick labels of long runs would run into each other."""
    assert [compact(n) for n in (0, 999, 12800, 1.5e6, 2e9)] == ["0", "999", "12.8k", "1.5M", "2B"]


def test_provenance_names_the_commit_or_nothing() -> None:
    """A report would carry the commit of some other repository."""
    found = commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found)
