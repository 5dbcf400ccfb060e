"""Reports: what is written can be read, by machines and by people."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from data_pipeline.errors import InputError
from evals import report
from evals.commit import commit
from evals.curve import Curve, compact, draw_curves, nice_ticks
from evals.results import EvalReport, EvalResult

SVG = "{http://www.w3.org/2000/svg}"


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


def test_json_round_trip() -> None:
    """A report that was written could not be read again as it was."""
    for original in RUN:
        assert EvalReport.from_json(original.to_json()) == original


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(extra=1), "report: unknown field 'extra'"),
        (lambda d: d["results"][0].update(extra=1), "result: unknown field 'extra'"),
        (lambda d: d.pop("identity"), "report: lacks identity"),
        (lambda d: d["results"][0].pop("chance"), "result: lacks chance"),
        (lambda d: d.update(schema_version=2), "schema_version 2"),
        (lambda d: d.update(results={}), "results must be a list"),
        (lambda d: d["results"][0].update(metrics=[]), "must be JSON objects"),
        (lambda d: d["results"][0]["metrics"].update(acc1=10.0), r"number in \[0, 1\]"),
        (lambda d: d["results"][0]["metrics"].update(acc1=float("nan")), r"number in \[0, 1\]"),
        (lambda d: d["results"][0]["metrics"].update(acc5=0.5), "name the same figures"),
    ],
)
def test_a_bad_report_is_refused(change, message: str) -> None:
    """A report of another version, or edited by hand, would be taken for ours."""
    data = json.loads(RUN[0].to_json())
    change(data)
    with pytest.raises(InputError, match=message):
        EvalReport.from_json(json.dumps(data))


def test_text_that_is_no_report_is_refused() -> None:
    """Pages of traceback for a file that was cut."""
    for text in ("{", "[]"):
        with pytest.raises(InputError, match="report: "):
            EvalReport.from_json(text)


def test_table_shows_chance_and_partial_data() -> None:
    """A figure would stand alone, or one of a fifth of a benchmark would be taken for the whole."""
    table = report.markdown_table(one_report(cifar10=0.25, own=0.05)).splitlines()
    assert table[2] == "| cifar10 | acc1 | 25.00% | 10.00% | 2.5x | 2,000 of 10,000 |"
    assert table[3] == "| own | acc1 | 5.00% | 10.00% | 0.5x | 2,000 |"


def test_terminal_table_loses_nothing_on_a_narrow_terminal() -> None:
    """Long names and figures would be cut where output goes to a pipe of 80 columns."""
    name = "vtab/clevr_closest_object_distance"
    console = Console(width=80, file=io.StringIO())
    console.print(report.terminal_table(one_report(**{name: 0.25})))
    text = console.file.getvalue()
    assert "25.00%" in text
    assert name in re.sub(r"[\s│]", "", text).replace("acc1", "").replace("25.00%10.00%2.5x2,000", "")


def test_write_report_writes_both_files(tmp_path: Path) -> None:
    """The report for people and the one for machines would not belong together."""
    path = tmp_path / "r.json"
    path.write_text("old")
    markdown = report.write_report(path, RUN[0])
    assert report.read_reports(path) == [RUN[0]]
    assert "sha256:00" in markdown.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.md"]


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
    assert "| cifar10 | acc1 | 50.00% | 10.00% | 5.0x | 1.5k (60.00%) |" in text
    assert "| 1.5k | **60.00%** | - |" in text
    assert "| 3k | 50.00% | **30.00%** |" in text
    assert "| recipe | x\\|y |" in text
    assert report.read_reports(path.with_name("report.json")) == RUN
    assert sorted(p.name for p in path.parent.iterdir()) == ["curve.svg", "report.json", "report.md"]


def test_run_report_without_samples_seen_counts_steps_or_checkpoints(tmp_path: Path) -> None:
    """Checkpoints of unknown age would all stand at the same place."""
    steps = [replace(one_report(own=0.2), step=step) for step in (10, 20)]
    assert "| step | own |" in report.write_run_report(tmp_path, steps, title="t", details={}).read_text()
    bare = [one_report(own=0.2), one_report(own=0.3)]
    assert "| checkpoint | own |" in report.write_run_report(tmp_path, bare, title="t", details={}).read_text()


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    """An empty report would look like a run that was measured."""
    with pytest.raises(InputError, match="nothing to report"):
        report.write_run_report(tmp_path / "new", [], title="t", details={})
    assert not (tmp_path / "new").exists()


def test_curves_are_one_line_a_task_with_its_chance(tmp_path: Path) -> None:
    """A task would be missing from the picture, or its line stand at wrong values."""
    curves = [
        Curve("a<b & c", ((0, 0.0), (50, 0.25), (100, 0.5)), 0.1),
        Curve("low", ((100, 0.3),), 0.2),
        Curve("x" * 60, ((0, 0.2), (100, 0.4)), 0.2),
    ]
    root = ElementTree.fromstring(draw_curves(curves, title="<t>", x_label="samples seen"))
    lines = root.findall(f"{SVG}polyline")
    assert [line.find(f"{SVG}title").text for line in lines] == ["a<b & c", "x" * 60, "low"]
    assert len(lines[0].get("points").split()) == 3
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in lines[0].get("points").split())
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.11)
    assert y1 - y2 == pytest.approx(y0 - y1, abs=0.11)
    dashed = [line for line in root.findall(f"{SVG}line") if line.get("stroke-dasharray")]
    assert len(dashed) == 3
    assert float(dashed[0].get("y1")) == pytest.approx(y0 + (y2 - y0) / 5, abs=0.11)


def test_texts_of_the_picture_do_not_overlap() -> None:
    """The legend or the ticks of a full suite could not be read."""
    curves = [Curve(f"vtab/clevr_closest_object_{i:08d}", ((10**9, i / 40),), 0.02) for i in range(40)]
    root = ElementTree.fromstring(draw_curves(curves, title="t" * 200, x_label="samples seen"))
    boxes = []
    for text in root.findall(f"{SVG}text"):
        width = (9 if text.get("font-weight") else 7) * len(text.text)
        x = float(text.get("x")) - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
        boxes.append((x, x + width, float(text.get("y"))))
    for number, (left, right, y) in enumerate(boxes):
        assert left >= 0
        assert right <= float(root.get("width"))
        assert y <= float(root.get("height"))
        for other_left, other_right, other_y in boxes[:number]:
            assert abs(y - other_y) >= 12 or right <= other_left or other_right <= left


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
