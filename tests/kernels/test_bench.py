"""The bench runner: what it refuses to time, and that its figures are figures of the run."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

from pineco.kernels import bench
from pineco.kernels.bench_case import Case
from pineco.kernels.timing import interleaved, peak_bytes, quantiles

CPU = torch.device("cpu")
LIMITS = {"copy_bytes_per_second": 1e9, "fp32_flops_per_second": 1e10}


def case(candidate: str, name: str = "4x4") -> Case:
    return Case("patch_distance", name, candidate, lambda: torch.ones(4) + 1, bytes=1000, flops=50)


def test_an_unknown_op_is_a_mistake_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt op would time nothing and succeed."""
    with pytest.raises(SystemExit) as stopped:
        bench.main(["patch_distnce"])
    assert stopped.value.code == 2
    assert "no bench of patch_distnce; there are" in capsys.readouterr().err


def test_red_tests_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures of a kernel that computes something else would be published."""
    failing = tmp_path / "test_red.py"
    failing.write_text("def test_red():\n    assert False\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "tests_of", lambda op: str(failing))
    monkeypatch.setattr(bench, "copy_rate", lambda device: 1.0)
    monkeypatch.setattr(bench, "fp32_rate", lambda device: 1.0)
    assert bench.main(["patch_distance"]) == 1
    assert "patch_distance is not timed: its tests fail" in capsys.readouterr().err
    assert not (tmp_path / bench.RESULTS).exists()


def test_a_record_says_what_where_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure would stand there without its device, commit and counts."""
    monkeypatch.chdir(tmp_path)
    module = type("Module", (), {"cases": lambda device: [case("ours"), case("eager"), case("ours", "9x9")]})
    monkeypatch.setattr(bench.importlib, "import_module", lambda name: module)
    bench.bench("patch_distance", CPU, LIMITS)
    record = json.loads((tmp_path / bench.RESULTS / "patch_distance_cpu.json").read_text())
    assert {"commit", "versions", "date", "hardware", "limits"} <= set(record)
    assert "CUDA" in record["not_measured"][0]
    assert [(r["case"], r["candidate"]) for r in record["rows"]] == [("4x4", "ours"), ("4x4", "eager"), ("9x9", "ours")]
    for row in record["rows"]:
        taken = row["seconds"]
        assert 0 < taken["p20"] <= taken["median"] <= taken["p80"]
        assert row["share_of_copy"] == pytest.approx(1000 / taken["median"] / 1e9)
        assert row["share_of_fp32"] == pytest.approx(50 / taken["median"] / 1e10)
    assert "not measured on CUDA" in capsys.readouterr().out


def test_a_rival_without_enough_memory_is_a_result() -> None:
    """One size that is too large for the original would end the bench without any record."""

    def greedy() -> None:
        raise torch.OutOfMemoryError("no room")

    large = dataclasses.replace(case("original"), run=greedy)
    rows = bench.measure([case("ours"), large], CPU, LIMITS)
    assert rows[0]["seconds"]["median"] > 0
    assert rows[1] == {"case": "4x4", "candidate": "original", "failed": "out of memory"}
    assert "original     out of memory" in bench.table(rows)


def test_rivals_take_turns() -> None:
    """A slow minute of the machine would fall on one candidate only."""
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("ours", "eager")}
    seconds = interleaved(runs, CPU, rounds=2)
    assert order == ["ours", "eager"] * (len(order) // 2)
    assert {name: len(taken) for name, taken in seconds.items()} == {"ours": 2, "eager": 2}


def test_seconds_are_seconds() -> None:
    """A figure would be in another unit, or of something else than the run."""
    taken = interleaved({"": lambda: time.sleep(0.02)}, CPU, rounds=3)[""]
    assert all(0.02 <= x < 2 for x in taken)
    assert quantiles([5.0, 1.0, 2.0, 4.0, 3.0, 6.0]) == {"median": 3.5, "p20": 2.0, "p80": 5.0}


def test_peak_memory_is_what_is_held_at_a_time() -> None:
    """A candidate would be charged for all it ever took, or not for what it gave back."""
    mega = 2**20

    def run() -> torch.Tensor:
        for _ in range(3):
            torch.ones(2 * mega, dtype=torch.int8) + 1  # two tensors of 2 MiB at a time
        return torch.ones(mega, dtype=torch.int8)

    assert peak_bytes(run, CPU) == pytest.approx(4 * mega, rel=0.01)
