"""The one command: what it finds, what it refuses, what it imports."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.launch import cli
from pineco.launch.cli import COMMANDS, main
from pineco.launch.exits import exit_code

HEAVY = {"torch", "numpy", "omegaconf", "rich", "submitit", "boto3", "PIL"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command would be listed that cannot be called, or say that it is called otherwise."""
    module, function = COMMANDS[name].main.split(":")
    assert callable(getattr(importlib.import_module(f"pineco.{module}"), function))
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: pineco {name} ")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody would find a command that is not listed."""
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in COMMANDS)
    assert main(["eval", "--help"]) == 0
    assert "eval triplets" in (shown := capsys.readouterr().out)
    assert "  train " not in shown


def test_help_imports_nothing_heavy() -> None:
    """A person would wait for seconds to read a list."""
    code = "import sys; from pineco.launch.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "pineco: no command 'trian'; did you mean train? see pineco --help"),
        (["x"], "pineco: no command 'x'; see pineco --help"),
        (["eval"], "pineco: eval needs one of: zeroshot, segmentation, triplets, probe; see pineco eval --help"),
        (
            ["data", "indx"],
            "pineco: data needs one of: prepare, index, toy; did you mean index? see",
        ),
        (["train", "clip_toi"], "pineco: clip_toi: no such recipe; did you mean clip_toy?"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error would end in a traceback, or without a hint."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """A script could not tell a bad input from a bug, and a full disk would be a traceback."""

    def ends(error: BaseException) -> int:
        def command() -> int:
            raise error

        return exit_code(command)

    assert exit_code(lambda: 0) == 0
    assert ends(InputError("a is b\nc is d")) == 2
    assert capsys.readouterr().err == "pineco: a is b\npineco: c is d\n"
    assert ends(OSError(errno.ENOSPC, "No space left on device", "out.json")) == 2
    assert capsys.readouterr().err.startswith("pineco: out.json: No space left on device; ")
    assert ends(KeyboardInterrupt()) == 130
    with pytest.raises(OSError, match="a bug"):
        ends(OSError(errno.EBADF, "a bug"))
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError())


def test_a_home_folder_is_meant_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder called ~ would be made in the working directory, or data not be found: no shell expands --out=~/x."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert main(["train", "clip_toy", "data.root=~/pairs", "data.cache=~/cache", "--check"]) == 0
    shown = capsys.readouterr().out
    assert f"root: {tmp_path}/home/pairs" in shown
    assert f"cache: {tmp_path}/home/cache" in shown
    (tmp_path / "home" / "own.yaml").write_text(
        "extends: null\nobjective: {kind: clip}\ndata: {root: ~/pairs}\nname: own\n"
    )
    assert main(["train", "~/own.yaml", "--check"]) == 0
    assert f"root: {tmp_path}/home/pairs" in capsys.readouterr().out
    for words in (
        ["data", "index", "~/shards", "--out=~/index"],
        ["data", "prepare", "images", "~/photos", "~/shards"],
        ["eval", "zeroshot", "--data=~/wds", "--tasks=toy_shapes", "--layout"],
        ["logs", "~/run"],
    ):
        assert main(words) == 2
        said = "".join(capsys.readouterr())
        assert str(tmp_path / "home") in said, said
    assert not list((tmp_path / "work").iterdir())


def test_the_table_is_what_the_readme_promises() -> None:
    """The README and the changelog name commands; one that is missing would be a lie."""
    wanted = ["train", "submit", "sweep", "plan", "status", "logs", "stop", "resume", "eval", "compare", "data"]
    wanted += ["weights", "recipes"]
    assert list(dict.fromkeys(name.split()[0] for name in cli.COMMANDS)) == wanted
