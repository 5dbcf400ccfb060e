"""Parts made by processes: each writes its shard, its index and its record; nothing else tells what was made."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import scan_file, write_sidecar
from pineco.data_pipeline.index.sidecar import sidecar_name
from pineco.data_pipeline.prepare.destination import Destination
from pineco.data_pipeline.prepare.job import Job, Layout, Made, Part
from pineco.data_pipeline.prepare.ledger import write_record
from pineco.data_pipeline.prepare.shard import write_shard

_CTRL_C = 0.2  # seconds: workers leave at Ctrl-C, and the news of it may come before our own KeyboardInterrupt


@dataclass(frozen=True)
class Maker:
    """Makes parts in one process."""

    job: Job
    destination: Destination
    scratch: Path

    def __call__(self, part: Part) -> Made:
        """The record is written last: until then the part counts as not made."""
        path = self.scratch / f"{part.number:05d}-{os.getpid()}.tar"
        store, layout = self.destination.shards, self.destination.layout
        shard = layout.shard(part.number)
        try:
            made, rejected = write_shard(path, part.number, self.job.outcomes(part))
            if made.samples:
                store.write(shard, path)
                if not layout.counter:
                    write_sidecar(store, shard, scan_file(path), made.bytes, store.etag(shard))
            else:  # one may be there of an earlier state of the source
                store.remove(shard)
                store.remove(sidecar_name(shard))
        finally:
            path.unlink(missing_ok=True)
        write_record(self.destination.records, part, made, rejected)
        return made


@contextmanager
def making(maker: Maker, parts: Sequence[Part], workers: int) -> Iterator[Iterator[Made]]:
    """Yields what became of each part, as they are done. A failure stops the rest; what was made stays made.

    The workers start at once: to be entered before anything that runs a thread, which a fork would cut in two.
    """
    if workers == 1 or len(parts) <= 1:
        yield map(maker, parts)
        return
    # Forked workers start at once, and also where __main__ cannot be imported again (notebooks, stdin).
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    arguments = (maker.job, maker.destination.root, maker.destination.layout, maker.scratch, os.getpid())
    pool = ProcessPoolExecutor(min(workers, len(parts)), context, _start, arguments)
    try:
        futures = [pool.submit(_make, part) for part in parts]
        yield (future.result() for future in as_completed(futures))
    except BrokenProcessPool:
        time.sleep(_CTRL_C)
        raise InputError("a worker was killed, perhaps for its memory; start again, with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


_maker: Maker | None = None  # of a worker


def _start(job: Job, root: str, layout: Layout, scratch: Path, parent: int) -> None:
    """In a new worker. An S3 client is not to be used across a fork, so that each opens its own."""
    global _maker
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background, for the parent, too
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # Ctrl-C is the parent's to report
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    _maker = Maker(job, Destination(root, layout), scratch)


def _follow(parent: int) -> None:
    """Ends this process once its parent is gone: nobody would wait for what it makes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _make(part: Part) -> Made:
    assert _maker is not None
    return _maker(part)
