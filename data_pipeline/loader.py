"""Batches ahead of the trainer: bytes that are read ahead, threads that decode, one order, bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.decode import DecodeCounts
from pineco.data_pipeline.order import EpochOrder, Extents, Run, rank_slice
from pineco.data_pipeline.reading.quarantine import ATTEMPTS, PER_SHARD, SHARE, Quarantine, substitute
from pineco.data_pipeline.reading.read_ahead import ReadAhead, Rows
from pineco.data_pipeline.reading.reader import Members, ReadCounters, RowReader, SampleError

CHUNK = 8  # samples that a thread decodes in one go: some 8 ms, so that a batch is shared by all threads
Batch = TypeVar("Batch")


class Source(Protocol[Batch]):
    """What the loader needs of a data set."""

    reader: RowReader
    decoded: DecodeCounts

    def __len__(self) -> int: ...

    def extents(self, lanes: int) -> Extents: ...

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """(n,) sample numbers -> (n, R) rows of the reader."""
        ...

    def empty(self, samples: int, *, pin: bool) -> Batch:
        """A batch to be filled. pin: in page-locked memory, from which a GPU copies without waiting."""
        ...

    def fill(self, batch: Batch, slot: int, sample: int, epoch: int, rows: Sequence[Members]) -> None:
        """Writes a sample into a batch; raises SampleError where its bytes hold none."""
        ...


@dataclass(frozen=True)
class DataPosition:
    """The whole state of the data: the next batch to be read."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How a loader works; none of it changes what it yields."""

    workers: int = 2  # threads that decode
    prefetch: int = 4  # batches held ahead of the trainer
    connections: int = 32  # threads that read
    memory: int = 1 << 30  # bytes read ahead and held, beside the batches
    pin: bool = False  # batches in page-locked memory
    ledger: Path | None = None  # of bad samples
    bad_share: float = SHARE
    bad_per_shard: int = PER_SHARD


@dataclass(frozen=True)
class LoaderStats:
    """What a loader has done since it was made."""

    samples: int = 0  # given to the trainer
    wait_seconds: float = 0.0  # of the trainer, for a batch
    quarantined: int = 0  # bad samples, each with a substitute
    fallbacks: int = 0  # JPEGs that the strict decoder refused and Pillow read
    read: ReadCounters = field(default_factory=ReadCounters)


class Loader(Generic[Batch]):
    """Yields this rank's part of every global batch.

    batch_size: B of the whole world; lanes: V, must divide it. Threads, not processes: reading, decoding and resizing
    all release the interpreter lock (`results/data/` has both).
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
        settings: LoaderSettings | None = None,
    ) -> None:
        self.source, self.batch_size, self.lanes, self.seed = source, batch_size, lanes, seed
        self.rank, self.world, self.settings = rank, world, settings or LoaderSettings()
        if batch_size % world:
            raise InputError(f"batch of {batch_size} samples does not divide by {world} ranks")
        self._extents = source.extents(lanes)
        self._order = lru_cache(maxsize=3)(self._make_order)
        self.batches_per_epoch, self.dropped = self._order(0).batches(batch_size), self._order(0).dropped(batch_size)
        if not self.batches_per_epoch:
            raise InputError(f"{self._extents.samples} samples do not fill one batch of {batch_size}")
        begin, end = rank_slice(batch_size, rank, world)
        self._quarantine = Quarantine(
            self.settings.ledger,
            samples=self.batches_per_epoch * (end - begin),
            share=self.settings.bad_share,
            per_shard=self.settings.bad_per_shard,
        )
        self._samples, self._waited = 0, 0.0

    @property
    def stats(self) -> LoaderStats:
        source = self.source
        bad, fallbacks = len(self._quarantine), source.decoded.fallbacks
        return LoaderStats(self._samples, self._waited, bad, fallbacks, source.reader.counters)

    def iterate(self, start: DataPosition) -> Generator[tuple[DataPosition, Batch], None, None]:
        """Endless: (position after the batch, batch). An error of a thread is raised here, at its batch."""
        coming: deque[tuple[DataPosition, Batch, list[Future[None]]]] = deque()
        positions, settings = self._positions(start), self.settings
        with ExitStack() as stack:
            decoders = ThreadPoolExecutor(settings.workers, thread_name_prefix="loader")
            stack.callback(decoders.shutdown, cancel_futures=True)
            ahead = self._read_ahead(start)
            stack.callback(ahead.close)  # first, so that no decoder waits for bytes
            while True:
                while len(coming) <= settings.prefetch:
                    coming.append(self._begin(next(positions), ahead, decoders))
                after, batch, parts = coming.popleft()
                self._wait_for(parts)
                yield after, batch

    def _read_ahead(self, start: DataPosition) -> ReadAhead:
        source, settings = self.source, self.settings
        runs = self._runs(start)
        return ReadAhead(source.reader, source.rows, runs, threads=settings.connections, memory=settings.memory)

    def _begin(
        self, position: DataPosition, ahead: ReadAhead, decoders: ThreadPoolExecutor
    ) -> tuple[DataPosition, Batch, list[Future[None]]]:
        """The batch at a position, on its way: its bytes asked for, its samples shared out to the threads."""
        epoch, number = position.epoch, position.batch
        samples = self._order(epoch).batch(number, self.batch_size, self.rank, self.world)
        ahead.request(epoch, number, samples)
        batch = self.source.empty(len(samples), pin=self.settings.pin)

        def fill(first: int) -> None:
            for slot in range(first, min(first + CHUNK, len(samples))):
                self._fill(batch, slot, int(samples[slot]), epoch, ahead)

        parts = [decoders.submit(fill, first) for first in range(0, len(samples), CHUNK)]
        return DataPosition(epoch, number + 1), batch, parts

    def _wait_for(self, parts: Sequence[Future[None]]) -> None:
        began = time.perf_counter()
        for part in parts:
            part.result()
        self._waited += time.perf_counter() - began
        self._samples += self.batch_size // self.world

    def _fill(self, batch: Batch, slot: int, sample: int, epoch: int, ahead: ReadAhead) -> None:
        """One sample, or where that is bad, the one that takes its place."""
        if self._try(batch, slot, sample, epoch, ahead.take(epoch, sample)):
            return
        for attempt in range(ATTEMPTS):
            other = substitute(self.seed, epoch, sample, attempt, len(self.source))
            if self._try(batch, slot, other, epoch, self._read(other)):
                return
        raise InputError(f"sample {sample} and {ATTEMPTS} substitutes for it are bad: see the ledger of bad samples")

    def _try(self, batch: Batch, slot: int, sample: int, epoch: int, rows: Rows) -> bool:
        """Whether the sample is good; a bad one is written down."""
        try:
            self.source.fill(batch, slot, sample, epoch, _good(rows))
        except SampleError as error:
            row = int(self.source.rows(np.array([sample]))[0, error.part])
            self._quarantine.add(epoch, sample, self.source.reader.origin(row), str(error))
            return False
        return True

    def _read(self, sample: int) -> Rows:
        rows = self.source.rows(np.array([sample]))[0]
        found = self.source.reader.read(np.unique(rows))
        return [found[row] for row in rows.tolist()]

    def _positions(self, start: DataPosition) -> Iterator[DataPosition]:
        """Of every batch from `start`; raises InputError for a start outside of its epoch."""
        if not 0 <= start.batch <= self.batches_per_epoch:
            raise InputError(f"cannot go on at batch {start.batch}: an epoch has {self.batches_per_epoch}")
        for epoch in count(start.epoch):
            for batch in range(start.batch if epoch == start.epoch else 0, self.batches_per_epoch):
                yield DataPosition(epoch, batch)

    def _runs(self, start: DataPosition) -> Iterator[tuple[int, Run]]:
        for epoch in count(start.epoch):
            first = start.batch if epoch == start.epoch else 0
            for run in self._order(epoch).runs(self.batch_size, self.rank, self.world, first):
                yield epoch, run

    def _make_order(self, epoch: int) -> EpochOrder:
        return EpochOrder(self._extents, seed=self.seed, epoch=epoch, lanes=self.lanes)


def _good(rows: Rows) -> list[Members]:
    """The rows of a sample; raises SampleError where one of them is none."""
    good: list[Members] = []
    for part, row in enumerate(rows):
        if isinstance(row, SampleError):  # raised anew: a reader may keep `row`, whose traceback every raise lengthens
            raise SampleError(str(row), part)
        good.append(row)
    return good
