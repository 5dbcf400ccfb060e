"""python -m pineco.kernels.bench [op ...]: time every op against its rivals, on the GPU or else on the CPU.

An op whose tests fail is not timed. Every kernels/<op>/bench.py lists its cases; candidates of one case alternate in
rounds. Writes results/kernels/<op>_<device>.json. All operations and bytes are counted by the case, not measured: what
the result needs, whatever a candidate does, so that the shares of the device's limits can be compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from pineco.kernels.bench_case import Case
from pineco.kernels.provenance import hardware, provenance
from pineco.kernels.timing import ROUNDS, copy_rate, fp32_rate, interleaved, peak_bytes, quantiles

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("results/kernels")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pineco.kernels.bench", description="time kernels against their rivals"
    )
    parser.add_argument("ops", nargs="*", metavar="op", help=f"of {', '.join(ops())}; all without one")
    chosen = parser.parse_args(arguments).ops or ops()
    if unknown := [op for op in chosen if op not in ops()]:
        parser.error(f"no bench of {', '.join(unknown)}; there are {', '.join(ops())}")
    red = [op for op in chosen if not tests_pass(op)]
    for op in red:
        print(f"pineco: {op} is not timed: its tests fail; see python -m pytest {tests_of(op)}", file=sys.stderr)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits = {"copy_bytes_per_second": copy_rate(device), "fp32_flops_per_second": fp32_rate(device)}
    for op in chosen:
        if op not in red:
            bench(op, device, limits)
    return 1 if red else 0


def ops() -> list[str]:
    """Names of the folders that have a bench.py."""
    return [path.parent.name for path in sorted(Path(__file__).parent.glob("*/bench.py"))]


def tests_of(op: str) -> str:
    return f"tests/kernels/test_{op}.py"


def tests_pass(op: str) -> bool:
    """Whether the op's test file passes, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts=", tests_of(op)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0  # noqa: S603 - fixed words and a folder name


def bench(op: str, device: torch.device, limits: dict[str, float]) -> None:
    """Time one op, print its table, write its record."""
    print(f"{op} on {hardware(device)}")
    rows = measure(importlib.import_module(f"kernels.{op}.bench").cases(device), device, limits)
    print(table(rows))
    record = {
        "what": f"seconds of {op}, median and percentiles of {ROUNDS} alternating rounds",
        "hardware": hardware(device),
        "not_measured": [] if device.type == "cuda" else ["CUDA: this machine has no such device"],
        "limits": limits,
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{op}_{_slug(device)}.json"
    path.write_text(json.dumps(record | provenance(), indent=2) + "\n")
    note = "" if device.type == "cuda" else "; not measured on CUDA"
    print(f"{path}{note}\n", flush=True)


def measure(cases: Iterable[Case], device: torch.device, limits: dict[str, float]) -> list[dict[str, Any]]:
    """One row a candidate: seconds, peak memory, and the shares of the device's limits that its median stands for."""
    rows = []
    for _, group in groupby(cases, key=lambda case: case.case):
        rivals = list(group)
        fitting = {case.candidate: case.run for case in rivals if _fits(case)}
        seconds = interleaved(fitting, device)
        for case in rivals:
            row: dict[str, Any] = {"case": case.case, "candidate": case.candidate}
            if case.candidate in fitting:
                taken = quantiles(seconds[case.candidate])
                row |= {
                    "seconds": taken,
                    "peak_bytes": peak_bytes(case.run, device),
                    "bytes": case.bytes,
                    "flops": case.flops,
                    "share_of_copy": case.bytes / taken["median"] / limits["copy_bytes_per_second"],
                    "share_of_fp32": case.flops / taken["median"] / limits["fp32_flops_per_second"],
                }
            else:
                row["failed"] = "out of memory"
            rows.append(row)
    return rows


def _fits(case: Case) -> bool:
    """Whether the device has memory for it: a rival that has not is a result, too."""
    try:
        case.run()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a candidate, for the terminal."""
    width = max((len(row["case"]) for row in rows), default=0)
    lines = [f"{'case':{width}}  candidate      median ms     p20     p80   peak MB   of copy   of fp32"]
    for row in rows:
        name = f"{row['case']:{width}}  {row['candidate']:12}"
        if "failed" in row:
            lines.append(f"{name} {row['failed']:>11}")
            continue
        ms = {name: 1e3 * value for name, value in row["seconds"].items()}
        lines.append(
            f"{name} {ms['median']:11.3f} {ms['p20']:7.3f} {ms['p80']:7.3f}"
            f" {row['peak_bytes'] / 1e6:9.1f} {row['share_of_copy']:8.1%} {row['share_of_fp32']:9.1%}"
        )
    return "\n".join(lines)


def _slug(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
