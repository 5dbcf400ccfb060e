"""The contact sheet."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support.commands import command

SMALL = [f"--{name}=10" for name in ("train-pairs", "val-pairs", "triplets", "test-images", "retrieval-images")]
SMALL += ["--dense-train=10", "--dense-test=10", "--workers=1"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, people cannot look at the data, or a wrong path prints a traceback."""
    for seed in ("0", "1"):
        sheet = ["--sheet", str(tmp_path / f"{seed}.png"), "--seed", seed]
        assert command("data toy")([str(tmp_path / seed), *SMALL, *sheet]) == 0
    sheets = [Image.open(tmp_path / f"{seed}.png") for seed in (0, 1)]
    assert sheets[0].width > 4 * 64
    assert sheets[0].tobytes() != sheets[1].tobytes()
    assert command("data toy")([str(tmp_path / "0"), *SMALL, "--sheet", str(tmp_path / "missing/sheet.png")]) == 2
    assert capsys.readouterr().err.startswith("pineco: ")
