"""The loop. It knows no model, no data set and no file."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pineco.data_pipeline.loader import DataPosition
from pineco.pretrain.engine import Engine
from pineco.pretrain.objectives.base import StepOutput


@dataclass(frozen=True)
class TrainState:
    """Where a run stands; with the tensors of the engine, all that a resume needs."""

    step: int = 0  # optimizer steps taken
    samples_seen: int = 0  # over all ranks
    data: DataPosition = field(default_factory=DataPosition)  # the next micro-batch


Hook = Callable[[TrainState, StepOutput], None]


def step_seed(seed: int, step: int, rank: int) -> int:
    """Of what dropout draws at a step: another number for every rank, or masks would repeat within a batch.

    Different for 1,024 ranks and 4 million steps in the low 32 bits, which are all that a CPU's generator looks at.
    """
    return seed + step + (rank << 22)


def fit(
    engine: Engine,
    batches: Iterator[tuple[DataPosition, Any]],
    state: TrainState,
    *,
    steps: int,
    samples_a_step: int,
    lr: Callable[[int], float],
    weight_decay: Callable[[int], float | None] = lambda step: None,
    seed: int,
    rank: int = 0,
    hooks: Sequence[Hook],
    should_stop: Callable[[], bool],
) -> TrainState:
    """Takes optimizer steps until `steps` are taken or `should_stop`; returns where it stands.

    batches: (position after it, batch) of this rank. lr, weight_decay: of the update from a step to the next. hooks:
    called after every step, in order, on every rank.
    """
    engine.objective.train()
    gc.freeze()  # what imports and set-up made stays: no collection need look at it again
    while state.step < steps and not should_stop():
        torch.manual_seed(step_seed(seed, state.step, rank))  # so that no generator state needs saving
        for _ in range(engine.accumulation):
            position, batch = next(batches)
            output = engine.forward_backward(batch.to(engine.device))
        engine.step(lr(state.step), weight_decay(state.step))
        engine.objective.after_step(state.step)
        state = TrainState(state.step + 1, state.samples_seen + samples_a_step, position)
        for hook in hooks:
            hook(state, output)
    return state
