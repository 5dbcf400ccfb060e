"""Bars for people, lines for log files."""

from __future__ import annotations

import re
import time

import pytest

from pineco.data_pipeline.progress import BAR, COUNT, NAME, Bars, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, which goes on where a test says so."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_line_at_once_now_and_then_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """A log would fill the disk, or its last line say that something is missing."""
    with Bars(show=True) as progress:
        for done in range(1, 25):
            clock[0] += 1
            progress("images", 1000 * done, 24_000)
    assert capsys.readouterr().err.splitlines() == [
        "images: 1,000 of 24,000",
        "images: 11,000 of 24,000",
        "images: 21,000 of 24,000",
        "images: 24,000 of 24,000",
    ]


def test_rate_and_time_left_are_those_of_this_run(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run would promise to end hours before it does."""
    progress = Progress(eager=False)
    progress.begin("train", 100, 40)
    for step in (41, 50):
        clock[0] += 9
        progress.update("train", step, 100, lambda rate, left: f"{rate:.3f}/s, {left:.0f} s left")
    assert capsys.readouterr().err == "0.556/s, 90 s left\n"


def test_silence_where_nothing_is_to_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Every rank would tell the same."""
    with Bars(show=False) as progress:
        progress("images", 1, 1)
    assert capsys.readouterr().err == ""


def test_a_bar_a_task_at_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody at a terminal would see that it goes on; and lines would tear the bars."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(NAME, BAR, COUNT, "{task.fields[loss]:.2f}") as progress:
        for task in ("one", "two"):
            progress.begin(task, 3, loss=9.0)
            progress.update(task, 3, 3, "a line", loss=0.25)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"one .* 3/3 0\.25", shown)
    assert re.search(r"two .* 3/3 0\.25", shown)
    assert "a line" not in shown
