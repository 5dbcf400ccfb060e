"""The ahead-of-time gate: what it refuses, and that it leaves nothing out."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from pineco.kernels import aot
from pineco.kernels.aot import SHARED_LIMIT, Compiled, compile_all, modules, table

EXAMPLES = "tests.kernels.gate_examples"


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, int], Compiled]:
    """The example kernels, compiled for every architecture; needs no GPU."""
    return {(row.launch, row.arch): row for row in compile_all([EXAMPLES])}


def test_every_launch_is_compiled_for_every_architecture(compiled: dict[tuple[str, int], Compiled]) -> None:
    """A kernel that nobody compiled would fail on the user's GPU."""
    assert set(compiled) == {(name, arch) for name in ("good", "spilling", "large") for arch in SHARED_LIMIT}
    lines = table(list(compiled.values())).splitlines()
    assert len(lines) == 1 + len(compiled)
    assert all(any(name in line and f"sm_{arch}" in line for line in lines) for name, arch in compiled)


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_a_good_kernel_passes(arch: int, compiled: dict[tuple[str, int], Compiled]) -> None:
    """The gate would refuse everything, or count nothing."""
    row = compiled["good", arch]
    assert row.complaint is None
    assert (row.local, row.spills, row.shared) == (0, 0, 0)
    assert 8 <= row.registers <= 64
    assert row.instructions > 10


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_spilled_registers_are_refused(arch: int, compiled: dict[tuple[str, int], Compiled]) -> None:
    """A kernel would run from slow local memory, and nobody would see why."""
    row = compiled["spilling", arch]
    assert row.local > 0
    assert row.spills > 0
    assert row.complaint is not None
    assert f"spilling on sm_{arch}: {row.local} bytes of local memory" in row.complaint


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_too_much_shared_memory_is_refused(arch: int, compiled: dict[tuple[str, int], Compiled]) -> None:
    """The launch would fail on a GPU with less memory than the one it was written on."""
    row = compiled["large", arch]
    assert row.local == 0
    assert row.shared > SHARED_LIMIT[arch]
    assert row.complaint is not None
    assert f"large on sm_{arch}: {row.shared} bytes of shared memory (limit {SHARED_LIMIT[arch]})" in row.complaint


def test_the_command_fails_and_says_why(
    compiled: dict[tuple[str, int], Compiled],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """CI would stay green over a kernel that cannot run."""
    monkeypatch.chdir(tmp_path)
    rows = list(compiled.values())
    monkeypatch.setattr(aot, "compile_all", lambda names: rows)
    assert aot.main() == 1
    captured = capsys.readouterr()
    assert captured.err.count("pineco: ") == 2 * len(SHARED_LIMIT)
    record = json.loads((tmp_path / aot.RESULT).read_text())
    assert [(x["launch"], x["arch"]) for x in record["launches"]] == list(compiled)
    assert {"commit", "versions", "date"} <= set(record)
    rows[:] = [row for row in rows if row.launch == "good"]
    assert aot.main() == 0


def test_no_op_is_forgotten() -> None:
    """A new op would not be gated: every folder with a kernel.py is, and names its launches apart."""
    assert "pineco.kernels.patch_distance.kernel" in modules()
    for name in modules():
        names = [launch.name for launch in importlib.import_module(name).launches()]
        assert names
        assert len(set(names)) == len(names)
