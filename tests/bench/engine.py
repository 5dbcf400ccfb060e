"""python -m tests.bench.engine: what the trainer and an engine cost over a bare PyTorch loop.

Same model, batches, optimizer and threads in one process; rounds of a few steps alternate between the two so that a
noisy machine slows both; the figure is the median of the rounds' ratios. Writes one record into results/engine/.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import torch
import torch.distributed as dist

from pineco.data_pipeline.batches import ImageTextBatch
from pineco.data_pipeline.loader import DataPosition
from pineco.evals.results.provenance import commit, hardware, versions
from pineco.pretrain.distributed import RankInfo, start_process_group
from pineco.pretrain.engine import build_engine
from pineco.pretrain.objectives.clip import Clip
from pineco.pretrain.optim import parameter_groups
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from pineco.pretrain.trainer import TrainState, fit

BATCH, STEPS, ROUNDS = 64, 4, 15
RESULTS = Path("results/engine")


def main() -> None:
    ranks, device = RankInfo(), torch.device("cpu")
    start_process_group(ranks, device)
    ratios: dict[str, list[float]] = {"deepspeed": [], "local": []}
    batches = [_batch(i) for i in range(STEPS)]
    bare = _Bare()
    trained = {kind: _Trained(kind, ranks, device) for kind in ratios}
    for number in range(ROUNDS + 1):
        base = bare.seconds(batches)
        for kind, run in trained.items():
            ratio = run.seconds(batches) / base
            if number:  # the first round warms up
                ratios[kind].append(ratio)
        print(f"round {number}: {base / STEPS * 1e3:.0f} ms a bare step", flush=True)
    dist.destroy_process_group()
    summary = {k: {"median": statistics.median(v), "min": min(v), "max": max(v)} for k, v in ratios.items()}
    record = {
        "what": "seconds of a step through Trainer and engine over a bare PyTorch loop, CPU fp32",
        "model": _recipe("local").model,
        "batch": BATCH,
        "rounds": ROUNDS,
        "ratio": summary,
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "date": datetime.now(UTC).date().isoformat(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "overhead.json").write_text(json.dumps(record, indent=2) + "\n")
    for kind, figure in summary.items():
        print(f"{kind}: {figure['median']:.3f} x a bare loop (from {figure['min']:.3f} to {figure['max']:.3f})")


def _recipe(kind: str) -> Recipe:
    overrides = [f"engine.kind={kind}", "engine.precision=fp32", f"data.batch_size={BATCH}", "model=vit_tiny_p8_64"]
    return load_recipe("clip_toy", overrides)


def _batch(seed: int) -> ImageTextBatch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, 3, 64, 64), generator=random, dtype=torch.uint8)
    return ImageTextBatch(images, torch.randint(1, 49407, (BATCH, 32), generator=random), torch.arange(BATCH))


class _Bare:
    """The loop that anyone would write."""

    def __init__(self) -> None:
        recipe = _recipe("local")
        self.module = Clip(recipe, RankInfo())
        groups = parameter_groups(self.module, recipe.optimizer)
        self.optimizer = torch.optim.AdamW(groups, 1e-4, betas=(0.9, 0.98), eps=1e-8, fused=True)

    def seconds(self, batches: list[ImageTextBatch]) -> float:
        start = time.perf_counter()
        for batch in batches:
            self.module(batch).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.perf_counter() - start


class _Trained:
    """The same steps through the project's loop and an engine."""

    def __init__(self, kind: str, ranks: RankInfo, device: torch.device) -> None:
        recipe = _recipe(kind)
        self.engine = build_engine(Clip(recipe, ranks), recipe, ranks, device)

    def seconds(self, batches: list[ImageTextBatch]) -> float:
        start = time.perf_counter()
        fit(
            self.engine,
            _positions(batches),
            TrainState(),
            steps=len(batches),
            samples_a_step=BATCH,
            lr=lambda step: 1e-4,
            seed=0,
            hooks=[],
            should_stop=lambda: False,
        )
        return time.perf_counter() - start


def _positions(batches: list[ImageTextBatch]) -> Iterator[tuple[DataPosition, ImageTextBatch]]:
    for number in count():
        yield DataPosition(0, number + 1), batches[number % len(batches)]


if __name__ == "__main__":
    main()
