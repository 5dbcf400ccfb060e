"""Seconds, memory and the device's own limits: what pineco.kernels.bench measures."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]
WARMUP, ROUNDS = 3, 20
_FLUSH = 256 * 2**20  # bytes written before each timing on a GPU: more than any L2 cache holds
_COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes of the tensor that is copied to measure bandwidth
_MATRIX = {"cuda": 8192, "cpu": 1536}  # side of the matrices that are multiplied to measure the fp32 rate


def interleaved(runs: Mapping[str, Run], device: torch.device, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each run in each round. A round goes through all runs, so that a noisy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARMUP + rounds):
        for name, run in runs.items():
            taken = _seconds_cuda(run, device) if device.type == "cuda" else _seconds_cpu(run)
            if number >= WARMUP:
                seconds[name].append(taken)
    return seconds


def _seconds_cpu(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _seconds_cuda(run: Run, device: torch.device) -> float:
    torch.empty(_FLUSH, dtype=torch.int8, device=device).zero_()  # else the inputs lie in the cache already
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Median, and the 20th and 80th percentile."""
    cuts = statistics.quantiles(seconds, n=5, method="inclusive")
    return {"median": statistics.median(seconds), "p20": cuts[0], "p80": cuts[-1]}


def peak_bytes(run: Run, device: torch.device) -> int:
    """Most bytes that one run holds at a time beyond what was there before it, as torch's allocators count them."""
    if device.type != "cuda":
        return _peak_cpu(run)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_cpu(run: Run) -> int:
    """From the profiler's record of the allocator: unlike a dispatch mode it sees what compiled code takes."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy that is too large for the caches."""
    source = torch.ones(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED[device.type] / _best(lambda: target.copy_(source), device)


def fp32_rate(device: torch.device) -> float:
    """Floating-point operations a second of a large IEEE fp32 matrix product."""
    side = _MATRIX[device.type]
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no tf32
    try:
        return 2 * side**3 / _best(lambda: torch.mm(a, b), device)
    finally:
        torch.set_float32_matmul_precision(before)


def _best(run: Run, device: torch.device) -> float:
    return min(interleaved({"": run}, device, rounds=10)[""], default=math.inf)
