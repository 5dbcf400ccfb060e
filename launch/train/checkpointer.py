"""What happens after a step besides the log: checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pineco.launch.rundir.heartbeat import Heartbeat
from pineco.launch.rundir.layout import CHECKPOINTS
from pineco.launch.rundir.lease import Lease
from pineco.launch.train.open_run import logger
from pineco.pretrain.checkpoint import Checkpoint, gather_tensors, prune, save_checkpoint
from pineco.pretrain.distributed import RankInfo, barrier
from pineco.pretrain.engine import Engine
from pineco.pretrain.metrics import StepLog
from pineco.pretrain.objectives.base import StepOutput
from pineco.pretrain.recipe.settings import Recipe
from pineco.pretrain.trainer import TrainState


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
        self.folder, self.recipe, self.engine, self.ranks = directory / CHECKPOINTS, recipe, engine, ranks
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
        exported, training = gather_tensors(self.engine)
        if self.ranks.leads:
            if self.lease is not None:
                self.lease.check()
            self.folder.mkdir(exist_ok=True)
            checkpoint = save_checkpoint(self.folder, exported=exported, training=training, state=state)
            prune(self.folder, self.recipe.checkpoint.keep)
            logger.info("saved %s", checkpoint.path)
            self.heart.beat("evaluate")
            self.after(checkpoint)
        barrier(self.ranks)
        self.last_step = state.step
        self.heart.beat("step")
        self.log.resume(state)
