"""The contact sheet."""

from pathlib import Path

import pytest
from PIL import Image

from pineco.data_pipeline.toy_world import sheet


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, people cannot look at the data, or a wrong path prints a traceback."""
    for seed in (0, 1):
        assert sheet.main([str(tmp_path / f"{seed}.png"), f"--seed={seed}"]) == 0
    sheets = [Image.open(tmp_path / f"{seed}.png") for seed in (0, 1)]
    assert sheets[0].width > 4 * 64
    assert sheets[0].tobytes() != sheets[1].tobytes()
    assert sheet.main([str(tmp_path / "missing/sheet.png")]) == 2
    assert capsys.readouterr().err.startswith("pineco: ")
