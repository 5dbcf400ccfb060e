"""The command line of the dense evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import command
from tests.support.segmentation_sets import CLASSES, masks, sample, small_set, write_set

main = command("eval segmentation")

MODEL = "timm:test_vit"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_set(tmp_path / "set")


def arguments(data: object, out: Path, task: str = "incontext", *more: str) -> list[str]:
    return ["--model", MODEL, "--data", str(data), "--task", task, "--size", "32", "--out", str(out), *more]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("task", ["incontext", "linear"])
def test_measures_and_reports(task: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command would not do what its help says, or a figure could not be traced to its settings."""
    out = tmp_path / "report.json"
    assert main(arguments(data, out, task, "--seeds", "2", "--memory", "14", "--epochs", "2", "--pictures", "3")) == 0
    report = read(out)
    assert (report["schema"], report["schema_version"], report["task"]) == ("pineco.dense", 1, task)
    assert report["identity"] == "timm:test_vit:random-seed-0"
    assert report["images"] == {"train": 7, "test": 5}
    assert report["seeds"] == [0, 1]
    assert len(report["runs"]) == 2
    assert report["metrics"]["miou"] == pytest.approx(np.mean([run["miou"] for run in report["runs"]]))
    assert 0 <= report["intervals"]["miou"][0] <= report["metrics"]["miou"] <= report["intervals"]["miou"][1] <= 1
    assert list(report["class_iou"]) == list(CLASSES)
    assert ("miou_matched" in report["metrics"]) == (task == "incontext")
    assert report["settings"].items() >= {"incontext": {"neighbours": 30}, "linear": {"epochs": 2}}[task].items()
    assert all(report[name] for name in ("hardware", "versions", "precision", "seconds", "test_digest"))
    assert "commit" in report
    text = out.with_suffix(".md").read_text()
    assert "| disc |" in text
    assert "](report.png)" in text
    assert Image.open(out.with_suffix(".png")).size[0] > 900
    printed = capsys.readouterr().out
    assert "miou " in printed
    assert str(out) in printed


def test_a_report_can_be_had_again(data: Path, tmp_path: Path) -> None:
    """Two runs of one command would differ, and so nothing could be said of two models."""
    reports = []
    for name in ("a.json", "b.json"):
        assert main(arguments(data, tmp_path / name, "linear", "--epochs", "2", "--batch-size", "2")) == 0
        reports.append({k: v for k, v in read(tmp_path / name).items() if k not in ("seconds", "commit")})
    assert reports[0] == reports[1]
    assert reports[0]["runs"][0] != reports[0]["runs"][1]


def test_runs_that_would_be_the_same_are_one(data: Path, tmp_path: Path) -> None:
    """Three equal runs would be reported as three seeds without any spread."""
    assert main(arguments(data, tmp_path / "r.json")) == 0
    assert read(tmp_path / "r.json")["seeds"] == [0]


def test_two_models_are_compared_image_by_image(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The effect of a post-pretraining would have to be read off two intervals, which are far too wide for it."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert main(arguments(data, first)) == 0
    assert main(arguments(data, second, "incontext", "--baseline", str(first))) == 0
    report = read(second)
    assert report["baseline"] == "timm:test_vit (random weights)"
    assert report["differences"] == {"miou": [0, 0, 0], "pixel_accuracy": [0, 0, 0]}
    assert "against timm:test_vit" in capsys.readouterr().out
    assert main([*arguments(data, second, "incontext", "--baseline", str(first)), "--model", "timm:test_vit2"]) == 0
    found = read(second)["differences"]["miou"]
    gap = read(second)["metrics"]["miou"] - read(first)["metrics"]["miou"]
    assert found[0] == pytest.approx(gap)
    assert found[1] <= found[0] <= found[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--task", "linear"], "--task differs"),
        (["--size", "64"], "--size differs"),
        (["--test", "train"], "the test images differs"),
    ],
)
def test_a_baseline_that_was_measured_otherwise_is_refused(
    change: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A difference of two protocols would be called a difference of two models."""
    first = tmp_path / "first.json"
    assert main(arguments(data, first)) == 0
    assert main([*arguments(data, tmp_path / "r.json", "incontext", "--baseline", str(first)), *change]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a report"),
        ("[1]", "no report of pineco.dense version 1"),
        ('{"schema": "pineco.dense", "schema_version": 2}', "no report of pineco.dense version 1"),
        ('{"schema": "pineco.dense", "schema_version": 1}', "is not beside it"),
    ],
)
def test_a_bad_baseline_is_one_line(
    content: str | None, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation of an hour would end in a traceback."""
    if content is not None:
        (tmp_path / "first.json").write_text(content)
    assert main(arguments(data, tmp_path / "r.json", "incontext", "--baseline", str(tmp_path / "first.json"))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--train", "trian"], "trian: no such folder"),
        (["--out", "{tmp}/r.txt"], "must be a file that ends in .json"),
        (["--out", "{tmp}/nowhere/r.json"], "there is no folder"),
        (["--model", "timm:tset_vit"], "nearest model is timm:test_vit"),
        (["--size", "40"], "nearest is 32 or 48"),
        (["--memory", "3"], "less than one patch for each of 7 training images"),
        (["--device", "tpu9"], "no such kind of device"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    change: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts could not tell a mistake from a crash, and people would have to read a traceback."""
    assert main([*arguments(data, tmp_path / "r.json"), *(c.format(tmp=tmp_path) for c in change)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pineco: ")
    assert message in error
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("option", ["--size", "--seeds", "--memory", "--neighbours", "--epochs", "--cache-gib"])
def test_numbers_are_positive(option: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Zero seeds or epochs would give a figure of nothing."""
    for value in ("0", "-1", "many", "nan"):
        with pytest.raises(SystemExit) as caught:
            main([*arguments(data, tmp_path / "r.json"), f"{option}={value}"])
        assert caught.value.code == 2
    assert option in capsys.readouterr().err


def test_a_failed_run_keeps_the_old_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad mask at the end would cost the report of the day before."""
    good = [sample(mask) for mask in masks(4)]
    bad = [*good[:3], sample(np.full((16, 16), 7, np.uint8))]
    out = tmp_path / "report.json"
    out.write_text("an older report")
    assert main(arguments(write_set(tmp_path / "set", good, bad), out)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 4 samples cannot be used" in error
    assert "test0003: the mask has 256 pixels of 7" in error
    assert out.read_text() == "an older report"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "set"]


def _modules(command: str) -> str:
    program = "import sys, pineco.launch.cli as c\n"
    program += f"try: c.main(['eval', 'segmentation', *{command}])\nexcept SystemExit: pass\n"
    program += "print([m for m in ('torch', 'timm', 'open_clip') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_help_and_mistakes_in_paths_import_nothing_slow(data: Path, tmp_path: Path) -> None:
    """`--help`, and every typing error, would take ten seconds."""
    assert _modules("['--help']") == "[]"
    assert _modules(repr(arguments(data, tmp_path / "r.json", "incontext", "--train", "trian"))) == "[]"
