"""What happens after a step besides the log: checkpoints, and their evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from evals.encoder import load_encoder
from evals.report import read_reports, write_report, write_run_report
from evals.results import EvalReport
from evals.suite import evaluate
from launch.heartbeat import Heartbeat
from launch.lease import Lease
from launch.rundir import logger
from pretrain.checkpoint import Checkpoint, gather_tensors, list_checkpoints, prune, save_checkpoint
from pretrain.distributed import RankInfo, barrier
from pretrain.engine import Engine
from pretrain.metrics import StepLog
from pretrain.objectives.base import StepOutput
from pretrain.recipe import Recipe
from pretrain.trainer import TrainState


class Checkpointer:
    """The second hook: saves where one is due, and lets `after` know."""

    def __init__(
        self,
        directory: Path,
        recipe: Recipe,
        engine: Engine,
        ranks: RankInfo,
        *,
        due: Callable[[int], bool],
        log: StepLog,
        after: Callable[[Checkpoint], None],
        heart: Heartbeat,
        lease: Lease | None,
    ) -> None:
        self.folder, self.recipe, self.engine, self.ranks = directory / "checkpoints", recipe, engine, ranks
        self.due, self.log, self.after, self.heart, self.lease = due, log, after, heart, lease
        self.last_step: int | None = None

    def __call__(self, state: TrainState, output: StepOutput) -> None:
        if self.due(state.step):
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Every rank must call it: optimizer state is gathered, one rank writes."""
        if state.step == self.last_step:
            return
        self.log.pause()
        self.heart.beat("save", state.step)
        weights, training = gather_tensors(self.engine)
        if self.ranks.leads:
            if self.lease is not None:
                self.lease.check()
            self.folder.mkdir(exist_ok=True)
            checkpoint = save_checkpoint(
                self.folder, model=self.recipe.model, weights=weights, training=training, state=state
            )
            prune(self.folder, self.recipe.checkpoint.keep)
            logger.info("saved %s", checkpoint.path)
            self.heart.beat("evaluate")
            self.after(checkpoint)
        barrier(self.ranks)
        self.last_step = state.step
        self.heart.beat("step")
        self.log.resume(state)


class Evaluator:
    """Zero-shot evaluation of every checkpoint that has no report yet, and the report of the run."""

    def __init__(self, directory: Path, recipe: Recipe, device: torch.device) -> None:
        self.directory, self.recipe, self.device = directory, recipe, device

    def __call__(self, checkpoint: Checkpoint) -> None:
        """Measures it; what goes wrong is written down, and training goes on."""
        try:
            self.measure(checkpoint)
        except Exception as error:
            logger.error("evaluation of step %d failed: %s; training goes on", checkpoint.step, error)

    def measure(self, checkpoint: Checkpoint) -> None:
        """Writes the checkpoint's report and that of the run; nothing where it is there already."""
        settings, path = self.recipe.evaluation, report_path(self.directory, checkpoint)
        if not settings.tasks or settings.data is None or path.is_file():
            return
        waiting = Console(stderr=True).status(f"evaluating step {checkpoint.step}: {settings.tasks}")
        with waiting, torch.random.fork_rng(devices=[]):
            encoder = load_encoder(str(checkpoint.export), device=str(self.device))
            report = evaluate(
                encoder,
                settings.data,
                settings.tasks,
                batch_size=settings.batch_size,
                workers=self.recipe.data.workers,
                step=checkpoint.step,
                samples_seen=json.loads((checkpoint.path / "state.json").read_text())["samples_seen"],
            )
        path.parent.mkdir(exist_ok=True)
        write_report(path, report)
        logger.info("evaluated step %d: %s", checkpoint.step, _summary(report))
        self.write_run_report()

    def catch_up(self, step: int) -> None:
        """Evaluates what an interrupted run had saved but not measured."""
        for checkpoint in list_checkpoints(self.directory / "checkpoints"):
            if checkpoint.step <= step:
                self(checkpoint)

    def reports(self) -> list[EvalReport]:
        """Those of this run so far, in order of steps."""
        steps = {c.step for c in list_checkpoints(self.directory / "checkpoints")}
        paths = sorted((self.directory / "reports").glob("step_*.json"))
        reports = [report for path in paths for report in read_reports(path)]
        return [report for report in reports if report.step in steps]

    def write_run_report(self) -> Path | None:
        """report.md, report.json and curve.svg over all checkpoints; None where nothing was evaluated."""
        reports = self.reports()
        if not reports:
            return None
        about = {"recipe": self.recipe.name, "init": self.recipe.init}
        return write_run_report(self.directory, reports, title=f"Run {self.recipe.name}", details=about)


def report_path(run: Path, checkpoint: Checkpoint) -> Path:
    return run / "reports" / f"{checkpoint.path.name}.json"


def _summary(report: EvalReport) -> str:
    return ", ".join(f"{r.task} {100 * r.value:.1f} % (chance {100 * r.value_of_chance:.1f})" for r in report.results)
