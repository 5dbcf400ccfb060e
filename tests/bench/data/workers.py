"""The same decoding by threads of one process and by worker processes: which is faster is measured, not assumed."""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pineco.data_pipeline.images.image_text import ImageTextSource
from pineco.data_pipeline.order import EpochOrder
from tests.bench.data.figures import Figure, Result, rates, ratios
from tests.bench.data.image_text import BATCH, LANES, ours
from tests.bench.data.rounds import Pipeline, cores, on_cores, take_turns


def measure(source: ImageTextSource, *, rounds: int, seconds: float) -> Result:
    """As many threads, or processes, as there are cores; the trainer's own thread only takes the batches."""
    workers = len(cores())
    pipelines = {"threads": ours(source, workers=workers), "processes": processes(source, workers=workers)}
    with on_cores(*cores()):
        turns = take_turns(pipelines, rounds=rounds, seconds=seconds, warm=4 * BATCH)
    figures: list[Figure] = []
    for name in pipelines:
        figures += rates(f"{workers} {name} on {workers} cores, 500 x 375 -> 224", turns[name], "img")
    return Result([*figures, *ratios("threads over processes", turns["threads"], turns["processes"])], [])


def processes(source: ImageTextSource, *, workers: int) -> Pipeline:
    """torch's DataLoader, whole batches made in a worker and passed through shared memory."""

    def pipeline() -> Generator[int, None, None]:
        for images, _ in DataLoader(_Batches(source), batch_size=None, num_workers=workers):
            yield len(images)

    return pipeline


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch t of the order, over many epochs."""

    def __init__(self, source: ImageTextSource) -> None:
        self._source, self._extents = source, source.extents(LANES)
        self._order = lru_cache(maxsize=2)(self._make_order)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, t: int) -> tuple[Tensor, Tensor]:
        epoch, batch = divmod(t, self._order(0).batches(BATCH))
        samples = self._order(epoch).batch(batch, BATCH)
        rows = self._source.reader.read(np.unique(samples))
        filled = self._source.empty(len(samples), pin=False)
        for slot, sample in enumerate(samples.tolist()):
            members = rows[sample]
            assert isinstance(members, dict), members
            self._source.fill(filled, slot, sample, epoch, [members])
        return filled.images, filled.tokens

    def _make_order(self, epoch: int) -> EpochOrder:
        return EpochOrder(self._extents, seed=0, epoch=epoch, lanes=LANES)
