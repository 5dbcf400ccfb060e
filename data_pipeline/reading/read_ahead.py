"""The bytes of coming batches, read before they are asked for, in bounded memory.

Runs (parts of extents) are read whole, in the order in which they are needed. What a batch needs before its run is on
its way, as at the start, after a resume or where memory is short, is read by itself. So the first batch costs the same
at every position of an epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

import numpy as np

from pineco.data_pipeline.index.lookup import distinct
from pineco.data_pipeline.order import Run
from pineco.data_pipeline.reading.pool import Pool
from pineco.data_pipeline.reading.reader import Members, RowReader, SampleError, owned

Rows = list[Members | SampleError]  # of one sample
_LOOKS = 100  # runs passed over in one go


class ReadAhead:
    """Reads for one rank, with `threads` connections, of which a quarter is kept for what a batch waits for.

    rows: (n,) sample numbers -> (n, R) row numbers. runs: (epoch, run) in the order of need.
    memory: bytes that are on their way or held, by the average size of a row, beyond which no run is begun; what the
    requested batches need is read all the same.
    """

    def __init__(
        self,
        reader: RowReader,
        rows: Callable[[np.ndarray], np.ndarray],
        runs: Iterator[tuple[int, Run]],
        *,
        threads: int,
        memory: int,
    ) -> None:
        self._reader, self._rows, self._coming_runs = reader, rows, _ComingRuns(runs)
        self._capacity = memory / (reader.row_bytes * rows(np.zeros(1, np.int64)).shape[1])  # samples
        self._pool, self._lock = Pool(threads, "reader"), threading.Lock()
        self._coming: dict[tuple[int, int], Future[dict[int, Rows]]] = {}  # (epoch, sample) -> what will hold it
        self._most_runs, self._reading = max(1, threads * 3 // 4), 0  # runs that are being read
        self._first_batch: int | None = None  # samples of it that were not taken yet
        self._closed = False

    def request(self, epoch: int, batch: int, samples: np.ndarray) -> None:
        """Announces a batch, in order; what is not on its way is read at once."""
        with self._lock:
            for sample in samples.tolist():
                if (epoch, sample) not in self._coming:
                    read = partial(self._read, np.array([sample]), ahead=False)
                    self._coming[epoch, sample] = self._pool.submit(read, urgent=True)
            self._coming_runs.pass_batch(epoch, batch)
            if self._first_batch is None:
                self._first_batch = len(samples)
            self._read_on()

    def take(self, epoch: int, sample: int) -> Rows:
        """The rows of a sample that was requested, once; waits for them. Raises what reading them raised."""
        future = self._coming[epoch, sample]
        try:
            return future.result().pop(sample)
        finally:
            with self._lock:
                del self._coming[epoch, sample]
                if self._first_batch:
                    self._first_batch -= 1
                self._read_on()

    def close(self) -> None:
        """Ends the threads; what waits in `take` gets a CancelledError. Returns when the reads under way have ended."""
        with self._lock:
            self._closed = True
        self._pool.close()

    def _read_on(self) -> None:
        """Starts runs while there is room and a connection; not before the first batch is there, which they delay."""
        while not self._closed and not self._first_batch and self._reading < self._most_runs:
            run = self._coming_runs.first
            if run is None or len(self._coming) + len(run.samples) > self._capacity:
                return
            self._coming_runs.drop_first()
            self._reading += 1
            future = self._pool.submit(partial(self._read, run.samples, ahead=True), urgent=False)
            self._coming |= dict.fromkeys(((run.epoch, sample) for sample in run.samples.tolist()), future)

    def _read(self, samples: np.ndarray, *, ahead: bool) -> dict[int, Rows]:
        try:
            rows = self._rows(samples)
            found = self._reader.read(distinct(np.sort(rows, axis=None)), ahead=ahead)
            if ahead:  # they are taken one by one, and memory is given back one by one
                found = {row: owned(members) for row, members in found.items()}
            return {s: [found[r] for r in mine] for s, mine in zip(samples.tolist(), rows.tolist(), strict=True)}
        finally:
            if ahead:
                with self._lock:
                    self._reading -= 1
                    self._read_on()


class _Rest(NamedTuple):
    """What is still to be read of a run."""

    epoch: int
    samples: np.ndarray  # (n,) int64


class _ComingRuns:
    """The runs that are not read yet, without what the batches that were requested before took of them."""

    def __init__(self, runs: Iterator[tuple[int, Run]]) -> None:
        self._runs = runs
        self._run: tuple[int, Run] | None = None  # the first one, whole
        self._rest: _Rest | None = None  # of it, as it was when it was last asked for
        self._epoch, self._batch = -1, 0  # the next batch to be requested

    def pass_batch(self, epoch: int, batch: int) -> None:
        self._epoch, self._batch, self._rest = epoch, batch + 1, None

    def drop_first(self) -> None:
        self._run = self._rest = None

    @property
    def first(self) -> _Rest | None:
        """The first run that is worth its range. None where there is none within this epoch and the next one.

        Where several ranks share a lane there may be none at all, and the search must not go on for ever.
        """
        for _ in range(_LOOKS if self._rest is None else 0):
            self._run = self._run or next(self._runs, None)
            if self._run is None or self._run[0] > self._epoch + 1:
                break
            epoch, run = self._run
            samples = run.samples[run.batches >= self._first_open_batch(epoch)]
            if 2 * len(samples) >= run.whole:
                self._rest = _Rest(epoch, samples)
                break
            self._run = None  # most of the range would be read in vain
        return self._rest

    def _first_open_batch(self, epoch: int) -> int:
        """The first batch of an epoch that was not requested yet."""
        if epoch == self._epoch:
            return self._batch
        return 0 if epoch > self._epoch else np.iinfo(np.int64).max
