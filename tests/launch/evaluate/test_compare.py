"""The command line of comparisons: what names a run, and what is told to who names none."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from pineco.evals.report.write import write_report
from pineco.evals.results.results import EvalReport, EvalResult
from pineco.evals.zeroshot.classification import ClassificationOutcomes
from pineco.evals.zeroshot.compare import outcomes_path
from pineco.evals.zeroshot.outcomes import chance, metrics, save_outcomes
from pineco.launch.evaluate.compare import find, methods
from pineco.pretrain.recipe.load import load_recipe, recipe_yaml
from tests.support.commands import command

main = command("compare")


def write_measured(path: Path, right: float) -> Path:
    """A report with its outcomes: one task, of whose 50 images a share is right."""
    ranks = (torch.arange(50) >= round(right * 50)).long()
    outcomes = ClassificationOutcomes(labels=torch.arange(50) % 5, ranks=ranks, classes=5)
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    save_outcomes(outcomes_path(folder, "own"), outcomes)
    result = EvalResult(
        task="own",
        main_metric="acc1",
        metrics=metrics(outcomes),
        chance=chance(outcomes),
        samples=50,
        full_size=None,
        seconds=1.0,
    )
    write_report(path, EvalReport(model=path.stem, identity=str(path), results=(result,)))
    return path


def write_run(folder: Path, shares: Sequence[float], *settings: str) -> Path:
    """A run directory with a measured checkpoint every 5 steps."""
    for number, share in enumerate(shares, start=1):
        write_measured(folder / "reports" / f"step_{5 * number:08d}.json", share)
    (folder / "recipe.yaml").write_text(recipe_yaml(load_recipe("clip_toy", settings)))
    return folder


def test_compares_runs_steps_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command would compare other checkpoints than were named."""
    base = write_run(tmp_path / "base", [0.2, 0.4])
    other = write_measured(tmp_path / "other.json", 0.9)
    out = tmp_path / "out"
    assert main([str(base), f"{base}@5", str(other), "--out", str(out)]) == 0
    data = json.loads((out / "comparison.json").read_text())
    assert data["tasks"][0]["values"] == {"base": 0.4, "base@5": 0.2, "other": 0.9}
    assert data["totals"]["base@5"] == {"win": 0, "tie": 0, "loss": 1}
    printed = capsys.readouterr().out
    assert str(out / "comparison.html") in printed
    assert "90.00%" in printed


def test_names_stay_apart(tmp_path: Path) -> None:
    """Two runs of the same name would become one."""
    runs = [str(write_run(tmp_path / sweep / "seed=1", [0.2])) for sweep in ("a", "b")]
    reports = [str(write_measured(tmp_path / name / "report.json", 0.2)) for name in ("x", "y")]
    assert [one.name for one in find([*runs, *reports])] == [*runs, "x", "y"]


def test_runs_that_differ_in_their_seed_are_one_method(tmp_path: Path) -> None:
    """Seeds of the baseline would be mixed with those of the method, or each seed be a method."""
    settings = {"r1": ["init=random", "seed=1"], "r2": ["init=random", "seed=2"], "p1": ["init=perceptual", "seed=1"]}
    runs = [str(write_run(tmp_path / name, [0.2], *values)) for name, values in settings.items()]
    report = str(write_measured(tmp_path / "own.json", 0.2))
    assert methods(find([*runs, report])) == ["r1", "r1", "p1", "own"]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["base"], "a comparison needs two runs or reports at least"),
        (["base", "base"], "base: named twice"),
        (["base", "nowhere"], "nowhere: no such run directory or report"),
        (["base", "base@7"], "base@7: not measured; measured steps are 5, 10"),
        (["base", "base@last"], "base@last: after @ comes the step of a checkpoint"),
        (["base", "empty"], "empty: no measured checkpoint below reports/"),
        (["base", "many.json"], "many.json: holds 2 checkpoints; name the run directory"),
        (["base", "cut.json"], "cut.json: cannot be read as a report"),
    ],
)
def test_what_names_no_run_is_one_line(
    named: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A typing error would end in a traceback, or in a comparison of something else."""
    monkeypatch.chdir(tmp_path)
    write_run(Path("base"), [0.2, 0.4])
    Path("empty").mkdir()
    Path("cut.json").write_text("{")
    report = json.loads((Path("base") / "reports" / "step_00000005.json").read_text())
    Path("many.json").write_text(json.dumps([report, report]))
    assert main([*named, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pineco: {message}")
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A comparison of minutes would end in a traceback."""
    reports = [str(write_measured(tmp_path / name, 0.5)) for name in ("a.json", "b.json")]
    out = tmp_path / "a.json" / "zz"
    assert main([*reports, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pineco: --out {out}: the folder ")
    assert error.count("\n") == 1


def test_a_typing_error_needs_no_torch() -> None:
    """Every typing error would take seconds to be told."""
    code = "import sys; from pineco.launch.cli import main; assert main(['compare', 'a', 'b']) == 2"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr == "pineco: a: no such run directory or report\n"
