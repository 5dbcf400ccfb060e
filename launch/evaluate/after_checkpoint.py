"""Zero-shot evaluation of a run's checkpoints, and the report of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.datasets import resolve_tasks
from pineco.evals.data.tasks import load_tasks
from pineco.evals.models.encoder import Encoder, load_encoder
from pineco.evals.report.write import read_reports, report_scalars, write_report, write_run_report
from pineco.evals.results.averages import averages
from pineco.evals.results.results import EvalReport
from pineco.evals.zeroshot.suite import How, assemble, evaluate
from pineco.pretrain.checkpoint import Checkpoint, list_checkpoints, weights_sha256
from pineco.pretrain.recipe.settings import Recipe
from pineco.pretrain.tracking import Board

logger = logging.getLogger("pineco.launch")


class Evaluator:
    """Measures every checkpoint that has no report of its weights yet, in this process."""

    def __init__(self, run: Path, recipe: Recipe, device: torch.device) -> None:
        self._run, self._recipe, self._device = run, recipe, device

    def __call__(self, checkpoint: Checkpoint) -> None:
        """Measures it; what goes wrong is written down, and training goes on."""
        try:
            self.measure(checkpoint)
        except Exception as error:
            logger.error("evaluation of step %d failed: %s; training goes on", checkpoint.step, error)

    def measure(self, checkpoint: Checkpoint) -> None:
        """Writes the checkpoint's report and that of the run; nothing where they are there already."""
        if is_measured(self._run, self._recipe, checkpoint):
            return
        work = _Work(self._run, self._recipe, checkpoint, self._device)
        waiting = Console(stderr=True).status(f"evaluating step {checkpoint.step}: {work.tasks}")
        with waiting, torch.random.fork_rng(devices=[]):
            report = evaluate(work.encoder, work.data, work.tasks, work.how)
        self._publish(checkpoint, report)

    def measure_group(self, checkpoint: Checkpoint, group: str) -> None:
        """Measures one group of the tasks; who finishes last writes the report, from what all of them kept."""
        work = _Work(self._run, self._recipe, checkpoint, self._device)
        try:
            evaluate(work.encoder, work.data, task_groups(self._recipe)[group], work.how)
        except InputError as error:  # none of its tasks has a figure; the report will say so
            logger.error("evaluation of step %d, %s: %s", checkpoint.step, group, error)
        report = assemble(work.encoder, work.data, work.tasks, work.how)
        if report is not None:
            self._publish(checkpoint, report)

    def catch_up(self, step: int) -> None:
        """Evaluates what an interrupted run had saved but not measured."""
        for checkpoint in list_checkpoints(self._run / "checkpoints"):
            if checkpoint.step <= step:
                self(checkpoint)

    def reports(self) -> list[EvalReport]:
        """Those of this run so far, in order of steps."""
        steps = {c.step for c in list_checkpoints(self._run / "checkpoints")}
        paths = sorted((self._run / "reports").glob("step_*.json"))
        reports = [report for path in paths for report in read_reports(path)]
        return [report for report in reports if report.step in steps]

    def write_run_report(self) -> Path | None:
        """report.md, report.html, report.json and curve.svg over all checkpoints; None where nothing was evaluated."""
        reports = self.reports()
        if not reports:
            return None
        about = {"recipe": self._recipe.name, "init": self._recipe.init}
        return write_run_report(self._run, reports, title=f"Run {self._recipe.name}", details=about)

    def _publish(self, checkpoint: Checkpoint, report: EvalReport) -> None:
        state = json.loads((checkpoint.path / "state.json").read_text())
        report = replace(report, step=checkpoint.step, samples_seen=state["samples_seen"])
        write_report(report_path(self._run, checkpoint), report)
        logger.info("evaluated step %d: %s", checkpoint.step, _summary(report))
        for task, why in report.failed.items():
            logger.error("evaluation of step %d: %s has no figure: %s", checkpoint.step, task, why)
        with closing(Board(self._run, self._recipe, part="evaluation")) as board:
            board.add(report_scalars(report, averages(report, load_tasks())), checkpoint.step)
        self.write_run_report()


class _Work:
    """What an evaluation of one checkpoint needs."""

    def __init__(self, run: Path, recipe: Recipe, checkpoint: Checkpoint, device: torch.device) -> None:
        settings, path = recipe.evaluation, report_path(run, checkpoint)
        path.parent.mkdir(exist_ok=True)
        self._checkpoint, self._device = checkpoint, device
        assert settings.data is not None
        assert settings.tasks
        self.data, self.tasks = settings.data, settings.tasks
        self.how = How(
            batch_size=settings.batch_size,
            workers=recipe.data.workers,
            parts=path.with_suffix(""),
            allow_missing=settings.allow_missing,
        )

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(str(self._checkpoint.export), device=str(self._device))


def is_measured(run: Path, recipe: Recipe, checkpoint: Checkpoint) -> bool:
    """Whether nothing is asked for, or a report of the same weights and tasks is there."""
    settings, path = recipe.evaluation, report_path(run, checkpoint)
    if not settings.tasks or settings.data is None:
        return True
    if not path.is_file():
        return False
    report = read_reports(path)[-1]
    return report.selection == settings.tasks and report.identity == f"sha256:{weights_sha256(checkpoint)}"


def task_groups(recipe: Recipe) -> dict[str, Sequence[str]]:
    """Keys of the tasks that the recipe asks for and whose data is there, by group."""
    settings = recipe.evaluation
    groups: dict[str, list[str]] = {}
    assert settings.data is not None
    assert settings.tasks
    for task, _ in resolve_tasks(settings.data, settings.tasks, allow_missing=settings.allow_missing):
        groups.setdefault(task.group, []).append(task.key)
    return dict(groups)


def report_path(run: Path, checkpoint: Checkpoint) -> Path:
    return run / "reports" / f"{checkpoint.path.name}.json"


def _summary(report: EvalReport) -> str:
    return ", ".join(f"{r.task} {100 * r.value:.1f} % (chance {100 * r.value_of_chance:.1f})" for r in report.results)
