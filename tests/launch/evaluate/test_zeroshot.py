"""The command line of the evaluation."""

import errno
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.support.commands import command

main = command("eval zeroshot")

TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set "shades" of four grey images in two classes."""
    folder = tmp_path / "data" / "shades"
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w") as archive:
        for number in range(4):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (60 * number,) * 3).save(buffer, "PNG")
            for extension, content in (("png", buffer.getvalue()), ("cls", b"%d" % (number // 2))):
                info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("dark\nlight")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} image")
    return folder.parent


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    weights = open_clip.CLIP(**json.loads(json.dumps(TINY_CONFIG))).state_dict()
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CONFIG}))
    return folder


def arguments(model: object, data: Path, tasks: str, out: Path) -> list[str]:
    return ["--model", str(model), "--data", str(data), "--tasks", tasks, "--out", str(out)]


def test_measures_and_reports(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command would not do what its help says."""
    out = tmp_path / "report.json"
    out.write_text("an older report")
    assert main([*arguments(model, data, "shades", out), "--batch-size", "3", "--workers", "1"]) == 0
    [result] = json.loads(out.read_text())["results"]
    assert (result["task"], result["samples"], result["chance"]["acc1"]) == ("shades", 4, 0.5)
    assert "| shades | acc1 |" in out.with_suffix(".md").read_text()
    printed = capsys.readouterr().out
    assert "50.00%" in printed
    assert str(out) in printed


@pytest.mark.parametrize(
    ("tasks", "out", "message"),
    [
        ("cifra10", "r.json", "nothing is called 'cifra10'; nearest is 'cifar10'"),
        ("cifar10", "r.json", "no folder for cifar10; run again with --layout"),
        ("shades", "r.txt", "must be a file that ends in .json"),
        ("shades", "nowhere/r.json", "there is no folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tasks: str, out: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts could not tell a mistake from a crash, and people would have to read a traceback."""
    assert main(arguments("no-such-model", data, tasks, tmp_path / out)) == 2
    error = capsys.readouterr().err
    assert error.startswith("pineco: ")
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("out", ["/proc/a.json", "taken.json"])
def test_a_place_that_cannot_be_written_is_told_before_the_model_is_loaded(
    out: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation of hours would end in a traceback."""
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file with the name of the folder of parts")
    assert main(arguments("no-such-model", data, "shades", Path(out))) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pineco: --out {out}: the folder ")
    assert error.endswith("; name another place\n")
    assert error.count("\n") == 1


def test_a_full_disk_is_one_line(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end of an evaluation would be a traceback, and nobody know that it can go on."""

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("pineco.evals.report.write.write_text_atomically", full)
    assert main(arguments(model, data, "shades", tmp_path / "r.json")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pineco: ")
    assert "No space left on device; make room, then start again with the same --out" in last


def test_a_batch_of_none_is_refused_by_the_parser(data: Path, tmp_path: Path) -> None:
    """The model would be loaded first."""
    with pytest.raises(SystemExit, match="2"):
        main([*arguments("no-such-model", data, "shades", tmp_path / "r.json"), "--batch-size", "0"])


def test_layout_says_by_its_exit_code_whether_all_is_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script could not check its data before it asks for a GPU."""
    folder = ["--data", str(data), "--layout", "--tasks"]
    (data / "cifar10").mkdir()
    assert main([*folder, "cifar10"]) == 0
    assert main([*folder, "cifar10,mnist,shades"]) == 2
    said = capsys.readouterr().out
    assert "2 of 3 are here" in said
    assert f"shades: {data / 'shades'}\n" in said, "a folder without a row in the table"


def test_a_failed_run_keeps_the_old_report(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad image at the end would cost the report of the day before."""
    shard = data / "shades" / "test" / "0.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x89BMP"))
    out = tmp_path / "report.json"
    out.write_text("an older report")
    assert main(arguments(model, data, "shades", out)) == 2
    assert "s0000000" in capsys.readouterr().err.splitlines()[-1]
    assert out.read_text() == "an older report"
    kept = json.loads((tmp_path / "report" / "shades.json").read_text())
    assert "failed" in kept
    assert "result" not in kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "model", "report", "report.json"]


def test_help_imports_nothing_slow() -> None:
    """`--help`, and every typing error, would take ten seconds."""
    program = (
        "import sys, pineco.launch.evaluate.zeroshot as e\n"
        "try: e.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'open_clip', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "--precision {fp32,bf16}" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
