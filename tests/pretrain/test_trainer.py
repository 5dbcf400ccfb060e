"""The loop that takes steps."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor

from pineco.data_pipeline.loader import DataPosition
from pineco.pretrain.trainer import TrainState, fit, step_seed


def masks(rank: int, first: int, last: int) -> list[Tensor]:
    """What dropout drew at the steps from first to before last."""
    drawn: list[Tensor] = []
    engine = mock.Mock(accumulation=2, device=torch.device("cpu"))
    engine.forward_backward = lambda batch: drawn.append(torch.nn.functional.dropout(torch.ones(64), 0.5))
    fit(
        engine,
        batches(),
        TrainState(first, 0, DataPosition(0, 0)),
        steps=last,
        samples_a_step=1,
        lr=lambda step: 0.0,
        seed=7,
        rank=rank,
        hooks=[],
        should_stop=lambda: False,
    )
    return drawn


def batches() -> Iterator[tuple[DataPosition, Tensor]]:
    while True:
        yield DataPosition(0, 0), torch.zeros(1)


def test_a_resumed_run_drops_what_the_undisturbed_one_dropped() -> None:
    """The generator's state is in no checkpoint, so losses would leave their course after a restart."""
    assert torch.equal(torch.stack(masks(1, 0, 4)[4:]), torch.stack(masks(1, 2, 4)))


def test_no_two_masks_are_alike() -> None:
    """Dropout that repeats on every rank, step or micro-batch is weaker than the recipe says."""
    every = torch.stack([mask for rank in range(3) for mask in masks(rank, 0, 5)])
    assert len(every.unique(dim=0)) == len(every) == 30


def test_a_seed_for_every_step_of_every_rank() -> None:
    """Two ranks of a cluster would share masks late in a long run."""
    places = [(step, rank) for step in (0, 1, 10**4, 4 * 10**6) for rank in (0, 1, 2, 1023)]
    assert len({step_seed(42, *place) % 2**32 for place in places}) == len(places)
    torch.manual_seed(step_seed(2**31, 10**9, 2**12))  # as large as a run can have
