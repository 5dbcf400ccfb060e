"""The wheel: what it holds, and that all of it can be imported where nothing else of the repository is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.structure import PACKAGES, ROOT, SOURCES

DATA = (
    "py.typed",
    "launch/clusters/default.yaml",
    "pretrain/recipes/clip_toy.yaml",
    "pretrain/models/model_configs/vit_toy_p8_64.json",
    "evals/data/tasks.yaml",
    "evals/data/prompts/cifar10.yaml",
    "evals/report/page/style.css",
)
IMPORT_ALL = """
import importlib, sys
for name in sys.stdin.read().split():
    importlib.import_module(name)
import pineco
print(pineco.__file__, *(getattr(pineco, name) for name in pineco.__all__), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, as a release would be."""
    folder = tmp_path_factory.mktemp("wheel")
    names = (*PACKAGES, "pineco", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    for name in names:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=skip)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(folder / "source")], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """The interpreter of an environment with the wheel and our dependencies, without the checkout."""
    folder = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A plain path in a .pth file is searched, but .pth files there are not read: so not our editable install.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin" / "python"


def test_the_wheel_holds_everything_and_nothing_outside_of_pineco(wheel: Path) -> None:
    """An installed pineco would lack modules, or overwrite other people's packages."""
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in held} == {"pineco"}
    wanted = {f"pineco/{path.relative_to(ROOT)}" for path in SOURCES} | {f"pineco/{name}" for name in DATA}
    assert not wanted - held
    assert not [name for name in held if "/bench/" in name or name.startswith("pineco/tests")]


def test_every_module_of_the_wheel_imports(environment: Path, tmp_path: Path) -> None:
    """A module would work in a checkout only."""
    names = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in SOURCES]
    modules = [f"pineco.{name.removesuffix('.__init__')}" for name in names]
    done = subprocess.run(
        [str(environment), "-c", IMPORT_ALL], input=" ".join(modules), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(environment.parents[1]) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "clip_toy", "--check"], ["recipes"]])
def test_the_command_works_from_the_wheel(words: list[str], environment: Path, tmp_path: Path) -> None:
    """People who install pineco have no checkout whose files it could find."""
    done = subprocess.run(
        [str(environment), "-m", "pineco", *words], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip()
