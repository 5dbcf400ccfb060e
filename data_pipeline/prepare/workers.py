"""Parts made by processes: each writes its shard, its index and its record; nothing else tells what was made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pineco.data_pipeline.index import scan_file, write_sidecar
from pineco.data_pipeline.index.sidecar import sidecar_name
from pineco.data_pipeline.prepare.destination import Destination
from pineco.data_pipeline.prepare.job import Job, Layout, Made, Part
from pineco.data_pipeline.prepare.ledger import write_record
from pineco.data_pipeline.prepare.shard import write_shard
from pineco.data_pipeline.processes import processes

_KILLED = "a worker was killed, perhaps for its memory; start again, with fewer --workers"


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
    arguments = maker.job, maker.destination.root, maker.destination.layout, maker.scratch
    with processes(min(workers, len(parts)), _start, *arguments, killed=_KILLED, fork=True) as pool:
        futures = [pool.submit(_make, part) for part in parts]
        yield (future.result() for future in as_completed(futures))


_maker: Maker | None = None  # of a worker


def _start(job: Job, root: str, layout: Layout, scratch: Path) -> None:
    """In a new worker. An S3 client is not to be used across a fork, so that each opens its own."""
    global _maker
    _maker = Maker(job, Destination(root, layout), scratch)


def _make(part: Part) -> Made:
    assert _maker is not None
    return _maker(part)
