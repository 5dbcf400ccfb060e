"""What the repository promises about itself: its tree, its hazards, its command line, its neighbours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pineco.launch.evaluate import zeroshot as evaluate
from pineco.launch.train import run
from tests.bench import record

ROOT = Path(__file__).parent.parent
PACKAGES = ("launch", "pretrain", "kernels", "data_pipeline", "evals")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs a git checkout")
    return [name for name in done.stdout.split("\n") if name and (ROOT / name).exists()]


def test_the_annotated_tree_is_the_tree() -> None:
    """The README would send people to files that are not there, or hide some."""
    tree = (ROOT / "README.md").read_text().split("<!-- tree -->")[1]
    entries = {entry.rstrip("/") for entry in re.findall(r"^[│├└─ ]+([\w.-]+/?)(?:\s|$)", tree, re.MULTILINE)}
    assert entries >= {*PACKAGES, "tests", "docs", "results"}
    sources = [name for name in _tracked() if name.startswith(PACKAGES) and name.endswith(".py")]
    missing = {name for name in sources if Path(name).name not in {*entries, "__init__.py"}}
    assert not missing, f"not in the README's tree: {sorted(missing)}"
    parts = {part for name in _tracked() for part in Path(name).parts}
    assert not entries - parts, "the README names what does not exist"


def test_the_results_in_the_readme_are_the_records() -> None:
    """A figure would stand there that nobody measured."""
    text = (ROOT / "README.md").read_text()
    assert record.render(text, ROOT / "results") == text, "run python -m tests.bench.record"
    for path in (ROOT / "results" / "runs").glob("*.json"):
        kept = json.loads(path.read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", kept["commit"]), f"{path.name}: measured on files that were not committed"


ONLY_READER = "pretrain/models/import_weights.py"  # of .pth files: tensors alone are unpickled there
HAZARDS = r"\bpickle\b|torch\.load\(|yaml\.load\(|shell=True|\btarfile\b|\beval\(|\bexec\(|os\.system"


def test_no_hazard_in_the_packages() -> None:
    """Loading a checkpoint, a recipe or a shard could run somebody's code."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if re.search(HAZARDS, re.sub(r"\)?\.eval\(\)", "", line))
        and not (path == ROOT / ONLY_READER and "torch.load(" in line and "weights_only=True" in line)
    ]
    assert not found, "\n".join(found)


def test_no_file_is_large_or_named_for_nothing() -> None:
    """The code would stop being a pleasure to read."""
    large = [p.name for p in SOURCES if len(p.read_text().split("\n")) > 400]
    assert not large
    assert not [p.name for p in SOURCES if p.stem in ("utils", "common", "helpers", "misc")]


def test_no_new_command_line_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """A setting on the command line is in no recipe, so a run could not be repeated from its run directory."""
    expected = {
        run.main: {"--help", "--run-dir", "--resume", "--check"},
        evaluate.main: {
            "--help", "--model", "--data", "--tasks", "--out", "--batch-size", "--device", "--precision", "--workers",
            "--layout", "--prompts", "--allow-missing", "--partial-average",
        },
    }  # fmt: skip
    for main, flags in expected.items():
        with pytest.raises(SystemExit):
            main(["--help"])
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)) == flags


def test_transformers_still_imports_beside_our_kernels() -> None:
    """transformers looks up the version of whatever provides a package called kernels."""
    code = "from transformers import CLIPModel; import kernels; print(kernels.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) in done.stdout


def _make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


def test_make_help_lists_every_target() -> None:
    """A target would be there that nobody finds."""
    targets = set(re.findall(r"^([a-z-]+):.*", (ROOT / "Makefile").read_text(), re.MULTILINE))
    listed = set(re.findall(r"^  make ([a-z-]+)", _make("help").stdout, re.MULTILINE))
    assert listed == targets


def test_a_cluster_is_refused_where_there_is_none() -> None:
    """`make pretrain NODES=8` would quietly train on the login node, or end in a stack of subprocess."""
    done = _make("pretrain", "NODES=8", SLURM_CONF="/dev/null")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pineco: ")]
    assert "no SLURM here" in line or "sinfo" in line
    assert "Traceback" not in done.stderr


def test_constraints_pin_what_setup_cfg_asks_for() -> None:
    """An unpinned package would change under a run."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().split("\n") if "==" in line]
    pins = {line.split("==")[0].lower().replace("-", "_") for line in lines}
    block = (ROOT / "setup.cfg").read_text().split("install_requires =")[1].split("[options.package_data]")[0]
    asked = {m.lower().replace("-", "_") for m in re.findall(r"^    ([A-Za-z][\w-]*)", block, re.MULTILINE)}
    assert asked - pins == {"wandb"}  # optional: whoever asks for it has a version of their own
