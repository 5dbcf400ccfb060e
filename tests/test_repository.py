"""What the repository promises about itself: its folders, its hazards, its command line, its neighbours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import record
from tests.support.commands import command
from tests.support.structure import PACKAGES, ROOT, SOURCES


def test_the_readme_maps_every_folder() -> None:
    """The README would send people to folders that are not there, or hide some."""
    table = (ROOT / "README.md").read_text().split("## Folders")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {name.rstrip("/") for cell in first for name in re.findall(r"`([\w/]+)`", cell)}
    folders = {str(path.parent.relative_to(ROOT)) for path in SOURCES}
    kernels = {name for name in folders if name.startswith("kernels/")}  # one row names all three
    assert not folders - kernels - listed, "not in the README's map"
    assert not [name for name in listed if not (ROOT / name).is_dir()], "the README names what does not exist"


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


def test_no_new_command_line_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """A setting on the command line is in no recipe, so a run could not be repeated from its run directory."""
    expected = {
        "train": {"--help", "--run-dir", "--resume", "--check"},
        "eval zeroshot": {
            "--help", "--model", "--data", "--tasks", "--out", "--batch-size", "--device", "--precision", "--workers",
            "--layout", "--prompts", "--allow-missing", "--partial-average",
        },
    }  # fmt: skip
    for name, flags in expected.items():
        with pytest.raises(SystemExit):
            command(name)(["--help"])
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)) == flags


def test_nothing_of_ours_is_importable_outside_of_pineco(tmp_path: Path) -> None:
    """Hugging Face's `kernels` and OpenAI's `evals` could not be installed beside us, and transformers imports one."""
    names = ", ".join(PACKAGES)
    code = f"from importlib.util import find_spec\nfor n in {PACKAGES!r}: print(getattr(find_spec(n), 'origin', None))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in done.stdout, f"one of {names} is ours"


def test_transformers_still_imports_beside_us(tmp_path: Path) -> None:
    """transformers looks up the version of whatever provides a package called kernels."""
    code = "from transformers import CLIPModel; import pineco.kernels; print(pineco.kernels.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


def test_the_headline_command_is_the_published_run() -> None:
    """`make pretrain NODES=8` would train the toy world on eight nodes, and nothing would say what it lacks."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PINECO_")}
    done = subprocess.run(["make", "pretrain", "NODES=8"], cwd=ROOT, capture_output=True, text=True, env=bare)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pineco: ")]
    assert "clip_vitb32_yfcc15m" in line
    assert "PINECO_YFCC15M" in line


def test_make_help_lists_every_target() -> None:
    """A target would be there that nobody finds."""
    targets = set(re.findall(r"^([a-z-]+):.*", (ROOT / "Makefile").read_text(), re.MULTILINE))
    listed = set(re.findall(r"^  make ([a-z-]+)", _make("help").stdout, re.MULTILINE))
    assert listed == targets


def test_a_cluster_is_refused_where_there_is_none(tmp_path: Path) -> None:
    """`make pretrain NODES=8` would quietly train on the login node, or end in a stack of subprocess."""
    done = _make("pretrain", "NODES=8", "RECIPE=clip_toy", SLURM_CONF="/dev/null")
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
