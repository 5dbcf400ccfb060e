"""The command line of the evaluation on triplets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import command

main = command("eval triplets")

MODEL = "timm:test_vit"
COLUMNS = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,prompt,is_imagenet,split"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images, forty triplets, in NIGHTS' layout."""
    random, root = np.random.default_rng(0), tmp_path / "set"
    root.mkdir()
    for number in range(12):
        noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(noise).save(root / f"{number:02}.png")
    lines = [COLUMNS]
    for row in range(40):
        right = row % 9 / 8
        sides = ",".join(f"{number:02}.png" for number in random.permutation(12)[:3])
        split, votes = "test" if row < 30 else "val", 4 if row == 5 else 8
        lines.append(f"{row},{1 - right},{right},{votes},{sides},noise,{row % 3 == 0},{split}")
    (root / "data.csv").write_text("\n".join(lines) + "\n")
    return root


def arguments(data: object, out: Path, *more: str) -> list[str]:
    return ["--model", MODEL, "--data", str(data), "--size", "32", "--out", str(out), *more]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_measures_and_reports(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command would not do what its help says, or a figure could not be traced to its settings."""
    out = tmp_path / "report.json"
    assert main(arguments(data, out, "--split", "test", "val", "--features", "cls_patch")) == 0
    report = read(out)
    assert (report["schema"], report["schema_version"], report["min_votes"]) == ("pineco.triplets", 1, 6)
    assert (report["identity"], report["features"]) == ("timm:test_vit:random-seed-0", ["cls_patch"])
    assert (report["image_size"], report["width"], report["chance"]) == (32, 128, 0.5)
    test, val = report["splits"]["test"], report["splits"]["val"]
    assert (test["triplets"], test["few_votes"], test["votes"]) == (29, 1, {"8": 29})
    assert (val["triplets"], val["few_votes"], val["undecided"]) == (10, 0, 1)
    figures = test["figures"]
    assert set(figures) == {
        "two_afc", "two_afc_imagenet", "two_afc_no_imagenet", "accuracy", "best_choice", "held_out_voter",
    }  # fmt: skip
    for figure in figures.values():
        for low, high in (figure["interval"], figure["by_reference"]):
            assert 0 <= low <= figure["value"] <= high <= 1
    parts = [figures[f"two_afc_{name}"] for name in ("imagenet", "no_imagenet")]
    total = sum(part["value"] * part["triplets"] for part in parts) / 29
    assert figures["two_afc"]["value"] == pytest.approx(total, abs=1e-9)
    assert figures["two_afc"]["value"] <= figures["best_choice"]["value"]
    assert sum(one["agreement"]["triplets"] for one in test["by_share"]) == 29 - test["undecided"]
    assert test["differences"] == {}
    assert all(report[name] for name in ("hardware", "versions", "precision", "seconds", "draws"))
    assert "commit" in report
    text = out.with_suffix(".md").read_text()
    assert "29 triplets (1 more have fewer than 6 votes and were left out)" in text
    assert "| people: best possible on these votes |" in text
    assert "](report.svg)" in text
    printed = capsys.readouterr().out
    assert "test: 29 triplets, 1 with fewer than 6 votes left out" in printed
    assert str(out) in printed


def test_the_picture_is_one_that_browsers_draw(data: Path, tmp_path: Path) -> None:
    """Names with brackets would break the picture, or a figure would not be in it."""
    (tmp_path / "a<b>&c").mkdir()
    out = tmp_path / "a<b>&c" / "report.json"
    assert main(arguments(data, out)) == 0
    assert main(arguments(data, tmp_path / "r.json", "--baseline", str(out), "--features", "embedding")) == 0
    drawn = ElementTree.parse(tmp_path / "r.svg").getroot()
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for path in (out, tmp_path / "r.json"):
        value = read(path)["splits"]["test"]["figures"]["two_afc"]["value"]
        assert f"{100 * value:.2f}%" in texts
    assert {"agreement with the majority, test", "test, baseline", "green dots: one voter"} <= set(texts)


def test_a_report_can_be_had_again(data: Path, tmp_path: Path) -> None:
    """Two runs of one command would differ, and so nothing could be said of two models."""
    reports = []
    for name, batch in (("a.json", "32"), ("b.json", "5")):
        assert main(arguments(data, tmp_path / name, "--batch-size", batch)) == 0
        reports.append({k: v for k, v in read(tmp_path / name).items() if k not in ("seconds", "commit")})
    assert reports[0] == reports[1]


def test_two_models_are_compared_triplet_by_triplet(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The effect of an alignment would have to be read off two intervals, which are far too wide for it."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert main(arguments(data, first)) == 0
    assert main(arguments(data, second, "--baseline", str(first))) == 0
    report = read(second)
    assert report["baseline"] == "timm:test_vit (random weights)"
    gaps = report["splits"]["test"]["differences"]
    assert set(gaps) == {"two_afc", "accuracy", "two_afc_imagenet", "two_afc_no_imagenet"}
    assert all(gap == {"value": 0, "low": 0, "high": 0} for gap in gaps.values())
    assert "points against timm:test_vit" in capsys.readouterr().out
    assert main(arguments(data, second, "--baseline", str(first), "--features", "cls_patch")) == 0
    split = read(second)["splits"]["test"]
    for name, gap in split["differences"].items():
        other = read(first)["splits"]["test"]["figures"][name]["value"]
        assert gap["value"] == pytest.approx(split["figures"][name]["value"] - other, abs=1e-12)
        assert gap["low"] <= gap["value"] <= gap["high"]
    assert set(split["differences_by_reference"]) == set(gaps)
    assert "Against timm:test_vit (random weights), in points:" in second.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--min-votes", "0"], "other rows of 'test'; use the same --data and --min-votes"),
        (["--split", "val"], "has no split 'val', only test"),
    ],
)
def test_a_baseline_of_other_triplets_is_refused(
    change: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A difference of two sets of rows would be called a difference of two models."""
    first = tmp_path / "first.json"
    assert main(arguments(data, first)) == 0
    assert main(arguments(data, tmp_path / "r.json", "--baseline", str(first), *change)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_baseline_of_other_images_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two models would be compared on images that are not the same, since the votes are."""
    assert main(arguments(data, tmp_path / "first.json")) == 0
    (data / "00.png").write_bytes((data / "01.png").read_bytes())
    assert main(arguments(data, tmp_path / "r.json", "--baseline", str(tmp_path / "first.json"))) == 2
    assert "other images in 'test'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a report"),
        ("[1]", "no report of pineco.triplets version 1"),
        ('{"schema": "pineco.triplets", "schema_version": 2}', "no report of pineco.triplets version 1"),
        ('{"schema": "pineco.triplets", "schema_version": 1}', "is not beside it"),
    ],
)
def test_a_bad_baseline_is_one_line(
    content: str | None, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation would end in a traceback."""
    if content is not None:
        (tmp_path / "first.json").write_text(content)
    assert main(arguments(data, tmp_path / "r.json", "--baseline", str(tmp_path / "first.json"))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_damaged_distances_are_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A baseline that was cut while it was copied would be a traceback after the whole evaluation."""
    first = tmp_path / "first.json"
    assert main(arguments(data, first)) == 0
    (tmp_path / "first.distances.safetensors").write_bytes(b"cut")
    assert main(arguments(data, tmp_path / "r.json", "--baseline", str(first))) == 2
    assert "no distances of ours, or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--split", "tset"], "no split 'tset'; it has test, val"),
        (["--min-votes", "9"], "has no row with 9 votes or more"),
        (["--out", "{tmp}/r.txt"], "must be a file that ends in .json"),
        (["--out", "{tmp}/nowhere/r.json"], "there is no folder"),
        (["--model", "timm:tset_vit"], "nearest model is timm:test_vit"),
        (["--model", "timm:test_convnext"], "no class token; use --features embedding"),
        (["--size", "40"], "nearest is 32 or 48"),
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


def test_a_damaged_image_leaves_the_old_report(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A figure would be given over a part of the triplets, or cost the report of the day before."""
    (data / "03.png").write_bytes(b"GIF89a")
    (data / "07.png").write_bytes((data / "07.png").read_bytes()[:60])
    out = tmp_path / "report.json"
    out.write_text("an older report")
    assert main(arguments(data, out)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 12 samples cannot be used" in error
    assert "03.png" in error
    assert "07.png" in error
    assert out.read_text() == "an older report"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "set"]


@pytest.mark.parametrize(("option", "values"), [("--size", "0 -1 many"), ("--batch-size", "0"), ("--min-votes", "-1")])
def test_numbers_are_numbers(
    option: str, values: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch of no images would never end."""
    for value in values.split():
        with pytest.raises(SystemExit) as caught:
            main([*arguments(data, tmp_path / "r.json"), f"{option}={value}"])
        assert caught.value.code == 2
    assert option in capsys.readouterr().err


def _modules(command: str) -> str:
    program = (
        f"import sys, pineco.launch.cli as c\ntry: c.main(['eval', 'triplets', *{command}])\nexcept SystemExit: pass\n"
    )
    program += "print([m for m in ('torch', 'timm', 'open_clip') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_help_and_mistakes_in_paths_import_nothing_slow(data: Path, tmp_path: Path) -> None:
    """`--help`, and every typing error, would take ten seconds."""
    assert _modules("['--help']") == "[]"
    assert _modules(repr(arguments(data, tmp_path / "nowhere" / "r.json"))) == "[]"
    assert _modules(repr(arguments(data, tmp_path / "r.json", "--baseline", "nowhere.json"))) == "[]"
