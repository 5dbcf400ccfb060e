"""Batches ahead of the trainer: worker threads that load, one order, bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.order import EpochOrder, Extents

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)


class Source(Protocol[Batch_co]):
    """What the loader needs of a data set."""

    def extents(self, lanes: int) -> Extents: ...

    def load(self, samples: np.ndarray, epoch: int) -> Batch_co: ...


@dataclass(frozen=True)
class DataPosition:
    """The whole state of the data: the next batch to be read."""

    epoch: int = 0
    batch: int = 0


class Loader(Generic[Batch]):
    """Yields this rank's part of every global batch.

    batch_size: B of the whole world; lanes: V, must divide it; prefetch: batches held ahead of the trainer.
    Threads, because decoding, resizing and reading all release the interpreter lock.
    """

    def __init__(
        self,
        source: Source[Batch],
        *,
        batch_size: int,
        lanes: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        prefetch: int = 4,
    ) -> None:
        self.source, self.batch_size, self.lanes, self.seed = source, batch_size, lanes, seed
        self.rank, self.world, self.workers, self.prefetch = rank, world, workers, prefetch
        if batch_size % world:
            raise InputError(f"batch of {batch_size} samples does not divide by {world} ranks")
        self._extents = source.extents(lanes)
        order = self._order(0)
        self.batches_per_epoch, self.dropped = order.batches(batch_size), order.dropped(batch_size)
        if not self.batches_per_epoch:
            raise InputError(f"{self._extents.samples} samples do not fill one batch of {batch_size}")

    def iterate(self, start: DataPosition) -> Generator[tuple[DataPosition, Batch], None, None]:
        """Endless: (position after the batch, batch). An error of a worker is raised here, at its batch."""
        positions = self._positions(start)
        pending: deque[tuple[DataPosition, Future[Batch]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        try:
            while True:
                while len(pending) <= self.prefetch:
                    samples, epoch, after = next(positions)
                    pending.append((after, pool.submit(self.source.load, samples, epoch)))
                after, future = pending.popleft()
                yield after, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _positions(self, start: DataPosition) -> Iterator[tuple[np.ndarray, int, DataPosition]]:
        epoch, batch = start.epoch, start.batch
        if not 0 <= batch <= self.batches_per_epoch:
            raise InputError(f"cannot go on at batch {batch}: an epoch has {self.batches_per_epoch}")
        order = self._order(epoch)
        while True:
            if batch == self.batches_per_epoch:
                epoch, batch = epoch + 1, 0
                order = self._order(epoch)
            samples = order.batch(batch, self.batch_size, self.rank, self.world)
            batch += 1
            yield samples, epoch, DataPosition(epoch, batch)

    def _order(self, epoch: int) -> EpochOrder:
        return EpochOrder(self._extents, seed=self.seed, epoch=epoch, lanes=self.lanes)
