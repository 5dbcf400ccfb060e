"""One run: its first stage where the recipe has one, then data + objective + engine + hooks -> fit -> report."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.loader import Loader
from pineco.evals.report.write import terminal_table
from pineco.evals.results.provenance import hardware
from pineco.launch.evaluate.after_checkpoint import Evaluator
from pineco.launch.evaluate.job import EvaluationJobs
from pineco.launch.rundir.heartbeat import Heartbeat
from pineco.launch.rundir.layout import BAD_SAMPLES, CHECKPOINTS, INIT, JOB, rank_name
from pineco.launch.rundir.lease import Lease
from pineco.launch.train.checkpointer import Checkpointer
from pineco.launch.train.inputs import build_loader, check_evaluation, describe_data, ensure_toy_world
from pineco.launch.train.interrupt import StopFlag
from pineco.launch.train.open_run import check_run_dir, log_to, logger, open_run
from pineco.pretrain.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, load_weights
from pineco.pretrain.distributed import RankInfo, any_rank, barrier, pick_device, start_process_group
from pineco.pretrain.engine import Engine, build_engine
from pineco.pretrain.metrics import StepLog
from pineco.pretrain.objectives.base import Objective
from pineco.pretrain.optim import cosine, learning_rate
from pineco.pretrain.recipe.load import load_init_recipe
from pineco.pretrain.recipe.objectives import OBJECTIVES
from pineco.pretrain.recipe.settings import Recipe
from pineco.pretrain.tracking import Board, check_tracking
from pineco.pretrain.trainer import TrainState, fit


class Interrupted(Exception):  # noqa: N818 - not an error: the run is saved and can go on
    """The run was asked to stop and has saved a checkpoint."""


@dataclass(frozen=True)
class Place:
    """Where this process computes."""

    ranks: RankInfo
    device: torch.device
    stop: StopFlag
    heart: Heartbeat
    job: bool  # on a cluster


def train(recipe: Recipe, directory: Path, *, resume: bool, job: bool = False) -> Interrupted | None:
    """Runs a recipe to its end in `directory`; returns where it stands if a signal stopped it earlier.

    job: under pineco.launch.job.supervise, which watches the heartbeat of every rank.
    """
    ranks = RankInfo.from_environment()
    device = pick_device(recipe.engine.device, ranks)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logger.setLevel(logging.INFO if ranks.leads else logging.ERROR)
    started = time.perf_counter()
    with StopFlag() as stop:
        place = Place(ranks, device, stop, Heartbeat(directory / JOB if job else None, ranks.rank), job)
        start_process_group(ranks, device)
        interrupted: Interrupted | None = None
        try:
            lease = Lease(directory, os.environ["SLURM_JOB_ID"] if job else None) if ranks.leads else None
            with closing(lease) if lease else nullcontext():
                _run_stage(recipe, directory, place, resume=resume, lease=lease)
        except Interrupted as stopped:
            interrupted = stopped
        except BaseException:
            place.heart.write()  # at which step
            if ranks.world == 1:  # with others, this would wait for those that wait for us
                dist.destroy_process_group()
            raise
        dist.destroy_process_group()
        if interrupted is not None:
            return interrupted
        place.heart.beat("end")
        if ranks.leads:
            _conclude(recipe, directory, device, time.perf_counter() - started)
        place.heart.end()
    return None


def _run_stage(recipe: Recipe, directory: Path, place: Place, *, resume: bool, lease: Lease | None) -> Checkpoint:
    """The stage before it, if the recipe has one, then this one; returns the last checkpoint."""
    ensure_toy_world(recipe, place.ranks)
    check_evaluation(recipe)
    check_tracking(recipe)
    ledger = directory / BAD_SAMPLES / f"{rank_name(place.ranks.rank)}.jsonl"
    pin = place.device.type == "cuda"
    loader = build_loader(
        recipe, place.ranks, ledger=ledger, pin=pin
    )  # before the first stage: bad data shows at once, not after it
    if lease is not None:
        check_run_dir(directory, recipe, resume=resume)
        lease.take()  # not before: a run that is refused leaves nothing behind
        open_run(directory, recipe, device=place.device, ranks=place.ranks.world)
    barrier(place.ranks)
    engine = _build_engine(recipe, _first_stage(recipe, directory, place, lease), place)
    handler = log_to(directory) if place.ranks.leads else logging.NullHandler()
    try:
        if text := describe_data(loader):
            logger.info("%s", text)
        state = _restore(directory, engine)
        _fit(recipe, directory, place, loader, engine, state, lease)
    finally:
        logger.removeHandler(handler)
    return list_checkpoints(directory / CHECKPOINTS)[-1]


def _first_stage(recipe: Recipe, directory: Path, place: Place, lease: Lease | None) -> Checkpoint | None:
    """The checkpoint whose weights the run starts from: a named one, or that of the recipe's first stage."""
    if recipe.init == "random":
        return None
    if recipe.init_checkpoint is not None:
        found = list_checkpoints(Path(recipe.init_checkpoint) / CHECKPOINTS)
        if not found:
            raise InputError(f"init_checkpoint {recipe.init_checkpoint}: no run directory with checkpoints")
        return found[-1]
    return _run_stage(load_init_recipe(recipe), directory / INIT, place, resume=True, lease=lease)


def _build_engine(recipe: Recipe, begin: Checkpoint | None, place: Place) -> Engine:
    module, name = OBJECTIVES[recipe.objective.kind].module.split(":")
    objective: Objective = getattr(importlib.import_module(module), name)(recipe, place.ranks)
    if begin is not None:
        load_weights(begin, objective)
    return build_engine(objective, recipe, place.ranks, place.device)


def _restore(directory: Path, engine: Engine) -> TrainState:
    """From the newest checkpoint, or the start."""
    found = list_checkpoints(directory / CHECKPOINTS)
    if not found:
        return TrainState()
    state = load_checkpoint(found[-1], engine)
    logger.info("resumed from %s", found[-1].path)
    return state


def _fit(
    recipe: Recipe,
    directory: Path,
    place: Place,
    loader: Loader[Any],
    engine: Engine,
    state: TrainState,
    lease: Lease | None,
) -> None:
    ranks = place.ranks
    steps = total_steps(recipe, loader.batches_per_epoch)
    engine.objective.prepare(steps)
    lr = partial(learning_rate, total=steps, peak=recipe.optimizer.lr, schedule=recipe.schedule)
    log = StepLog(
        directory,
        recipe.name,
        steps=steps,
        every=recipe.log_every,
        lr=lr,
        ranks=ranks,
        start=state,
        loader=loader,
        board=Board(directory, recipe, purge_step=state.step + 1) if ranks.leads else None,
    )
    evaluator: Evaluator | EvaluationJobs = Evaluator(directory, recipe, place.device)
    if place.job and ranks.leads and (directory / JOB).is_dir():
        evaluator = EvaluationJobs(directory, recipe)
    due = partial(checkpoint_due, recipe=recipe, batches_per_epoch=loader.batches_per_epoch, steps=steps)
    saver = Checkpointer(
        directory, recipe, engine, ranks, due=due, log=log, after=evaluator, heart=place.heart, lease=lease
    )
    place.heart.watch(lambda: loader.stats.wait_seconds)
    place.heart.beat("start", state.step)
    with closing(log), closing(loader.iterate(state.data)) as batches:
        if ranks.leads:
            evaluator.catch_up(state.step)
        barrier(ranks)
        log.resume(state)
        state = fit(
            engine,
            batches,
            state,
            steps=steps,
            samples_a_step=recipe.data.batch_size,
            lr=lr,
            weight_decay=_weight_decay(recipe, steps),
            seed=recipe.seed,
            rank=ranks.rank,
            hooks=[log, saver, place.heart],
            should_stop=_should_stop(place),
        )
        if state.step < steps:
            if state.step:
                saver.save(state)
            raise Interrupted(f"{recipe.name} stopped at step {state.step} of {steps} and is saved")


def _weight_decay(recipe: Recipe, steps: int) -> Callable[[int], float | None]:
    settings = recipe.optimizer
    if settings.weight_decay_end is None:
        return lambda step: None
    return partial(cosine, total=steps, begin=settings.weight_decay, end=settings.weight_decay_end)


def _should_stop(place: Place) -> Callable[[], bool]:
    """Asked before every step, by all ranks.

    In a job the first step is taken whatever was said: SLURM may warn a minute early, while ranks still start, and a
    limit that is short beside a start would else end every attempt without a step.
    """
    steps = count()

    def ask() -> bool:
        return next(steps) >= place.job and any_rank(place.stop.raised, place.ranks, place.device)

    return ask


def total_steps(recipe: Recipe, batches_per_epoch: int) -> int:
    """Optimizer steps of the whole run; batches are micro-batches."""
    return recipe.schedule.steps or recipe.schedule.epochs * batches_per_epoch // recipe.data.accumulation


def checkpoint_due(step: int, *, recipe: Recipe, batches_per_epoch: int, steps: int) -> bool:
    """After the last step, every `every_steps`, and after the step that completes `every_epochs` more epochs."""
    every = recipe.checkpoint
    if step == steps or (every.every_steps and step % every.every_steps == 0):
        return True
    if every.every_epochs is None:
        return False
    period = every.every_epochs * batches_per_epoch
    return step * recipe.data.accumulation // period > (step - 1) * recipe.data.accumulation // period


def _conclude(recipe: Recipe, directory: Path, device: torch.device, seconds: float) -> None:
    """What a person sees last: the table, and where things are."""
    evaluator = Evaluator(directory, recipe, device)
    path = evaluator.write_run_report()
    console = Console()
    console.print(f"{seconds / 60:.1f} minutes on {hardware(device)}")
    if path is not None:
        console.print(terminal_table(evaluator.reports()[-1]))
        console.print(f"report: {path}", soft_wrap=True)
    console.print(f"encoder: {list_checkpoints(directory / CHECKPOINTS)[-1].export}", soft_wrap=True)
