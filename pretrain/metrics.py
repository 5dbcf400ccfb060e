"""What a run tells: one live line, metrics.jsonl, TensorBoard and whatever else the board writes to."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Protocol

import torch

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.data_pipeline.loader import LoaderStats
from pineco.data_pipeline.progress import BAR, LEFT, NAME, Progress
from pineco.pretrain.distributed import RankInfo, mean_over_ranks
from pineco.pretrain.objectives.base import StepOutput
from pineco.pretrain.run_files import METRICS
from pineco.pretrain.tracking import Board
from pineco.pretrain.trainer import TrainState

_COLUMNS = (
    NAME,
    BAR,
    "step {task.completed}/{task.total}",
    "loss {task.fields[loss]:.4f}",
    "{task.fields[speed]}",
    "ETA",
    LEFT,
)


class Counted(Protocol):
    """This rank's loader, as far as a log is concerned."""

    @property
    def stats(self) -> LoaderStats: ...


class StepLog:
    """The first hook: every `every` steps averages over ranks and writes a row; stops a run whose loss is not finite.

    metrics.jsonl has one row a logged step: step, steps (of the whole run), epoch, samples_seen, loss (and loss_hex,
    exact), the objective's metrics, lr, samples_per_second, and what the data cost since the row before (see
    `_data_costs`).
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        *,
        steps: int,
        every: int,
        lr: object,
        ranks: RankInfo,
        start: TrainState,
        loader: Counted,
        board: Board | None,
    ) -> None:
        """board: of the rank that leads; the others have none."""
        self.steps, self.every, self.lr, self.ranks, self.stage = steps, every, lr, ranks, stage
        self.board = board
        self._loader, self._data_before = loader, loader.stats
        self.path = folder / METRICS
        self.last_loss = math.nan
        self._clock, self._clock_samples = time.perf_counter(), start.samples_seen
        if ranks.leads:
            _drop_rows_after(self.path, start.step)
            self.progress = Progress(*_COLUMNS)
            self.progress.begin(stage, steps, start.step, loss=math.nan, speed="")
            self.progress.start()

    def __call__(self, state: TrainState, output: StepOutput) -> None:
        if state.step % self.every and state.step != self.steps:
            return
        costs = self._data_costs()
        names = ["loss", *output.metrics, *costs]
        values = torch.stack([output.loss.detach().float(), *(m.float() for m in output.metrics.values())])
        values = torch.cat([values, torch.tensor(list(costs.values()), device=values.device)])
        row = dict(zip(names, mean_over_ranks(values, self.ranks).tolist(), strict=True))
        self.last_loss = row["loss"]
        if not math.isfinite(self.last_loss):
            where = f"{self.stage}: loss is {self.last_loss} at step {state.step}"
            raise InputError(f"{where}: diverged; lower optimizer.lr or lengthen schedule.warmup in a new --run-dir")
        if self.ranks.leads:
            self._write(state, row)

    def _data_costs(self) -> dict[str, float]:
        """Since the last row, over all ranks once they were averaged; data_wait is a share of the time."""
        now, before = self._loader.stats, self._data_before
        self._data_before = now
        seconds, world = max(1e-9, time.perf_counter() - self._clock), self.ranks.world
        return {
            "data_wait": (now.wait_seconds - before.wait_seconds) / seconds,
            "data_bytes_per_second": world * (now.read.bytes - before.read.bytes) / seconds,
            "data_retries": float(world * (now.read.retries - before.read.retries)),
            "data_cache_hits": float(world * (now.read.cache_hits - before.read.cache_hits)),
            "data_repaired": float(world * (now.read.repaired - before.read.repaired)),
            "data_fallbacks": float(world * (now.fallbacks - before.fallbacks)),
            "data_quarantined": float(world * now.quarantined),  # in all
        }

    def _write(self, state: TrainState, row: dict[str, float]) -> None:
        now = time.perf_counter()
        row["samples_per_second"] = (state.samples_seen - self._clock_samples) / (now - self._clock)
        row["lr"] = self.lr(state.step - 1)  # type: ignore[operator]
        self._clock, self._clock_samples = now, state.samples_seen
        where = {"step": state.step, "steps": self.steps, "epoch": state.data.epoch, "samples_seen": state.samples_seen}
        with self.path.open("a") as file:
            file.write(json.dumps({**where, **row, "loss_hex": row["loss"].hex()}) + "\n")
        if self.board is not None:
            self.board.add({f"{self.stage}/{name}": value for name, value in row.items()}, state.step)
        self._show(state.step, row["loss"], _speed(row))

    def _show(self, step: int, loss: float, speed: str) -> None:
        def line(rate: float, left: float) -> str:
            return f"{self.stage} step {step}/{self.steps} loss {loss:.4f} {speed} ETA {left:.0f} s"

        self.progress.update(self.stage, step, self.steps, line, loss=loss, speed=speed)

    def pause(self) -> None:
        """Time until the next row counts from `resume`, e.g. around an evaluation."""
        if self.ranks.leads:
            self.progress.stop()

    def resume(self, state: TrainState) -> None:
        self._clock, self._clock_samples, self._data_before = (
            time.perf_counter(),
            state.samples_seen,
            self._loader.stats,
        )
        if self.ranks.leads:
            self.progress.start()

    def close(self) -> None:
        if self.ranks.leads:
            self.progress.stop()
        if self.board is not None:
            self.board.close()


def _speed(row: dict[str, float]) -> str:
    """Samples and bytes a second and the share of waiting; what went wrong only where something did."""
    parts = [f"{row['samples_per_second']:.0f} samples/s", f"{row['data_bytes_per_second'] / 1e6:.1f} MB/s"]
    parts.append(f"wait {100 * row['data_wait']:.0f} %")
    for name in ("retries", "cache_hits", "quarantined"):
        if row[f"data_{name}"]:
            parts.append(f"{name.replace('_', ' ')} {row[f'data_{name}']:.0f}")
    return " ".join(parts)


def _drop_rows_after(path: Path, step: int) -> None:
    """A resumed run takes these steps again: each step stands in the file once."""
    if path.is_file():
        rows = [line for line in path.read_text().splitlines(keepends=True) if _step_of(line) <= step]
        write_text_atomically(path, "".join(rows))


def _step_of(line: str) -> float:
    """Of a row; infinite where a crash cut the line, so that it goes with those that are taken again."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf
