"""A job from its parts to indexed shards; what was made before is not made again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import build_index
from pineco.data_pipeline.index.manifest import MANIFEST
from pineco.data_pipeline.index.sidecar import sidecar_name
from pineco.data_pipeline.prepare import ledger
from pineco.data_pipeline.prepare.destination import Destination
from pineco.data_pipeline.prepare.job import Job, Made
from pineco.data_pipeline.prepare.rejections import REJECTED, Rejections
from pineco.data_pipeline.prepare.workers import Maker, making
from pineco.data_pipeline.progress import BAR, COUNT, LEFT, NAME, Progress

Result = Mapping[str, Any]  # what prepare.json says besides the plan


def run(job: Job, destination: Destination, workers: int) -> Result:
    """Makes every shard that is not there, the files beside them, the index, and prepare.json last.

    Killed at any moment and called again, it ends with the bytes of a run that was not killed. Raises InputError
    where the destination holds another job, and where every item was rejected.
    """
    with destination.claimed() as scratch:
        plan = ledger.make_plan(job.kind, job.options, job.source)
        before = ledger.find_plan(destination, plan)
        made = {} if before is None else ledger.find_made(destination, job.parts)
        missing = [part for part in job.parts if part.number not in made]
        if before is not None and not missing and _is_whole(destination, before):
            return before
        ledger.begin(destination, plan)
        maker = Maker(job, destination, scratch)
        columns = NAME, BAR, COUNT, "{task.fields[text]}", LEFT
        with making(maker, missing, workers) as results, Progress(*columns, eager=False, transient=True) as progress:
            for new in _counted(results, progress, job.kind, len(missing)):
                made[new.number] = new
        ordered = [made[part.number] for part in job.parts]
        result = _complete(job, destination, ordered, scratch, workers)
        ledger.finish(destination, plan, result)
    return result


def _counted(results: Iterable[Made], progress: Progress, kind: str, parts: int) -> Iterator[Made]:
    """The same results; progress hears of each."""
    samples = rejected = 0
    progress.begin(kind, parts, text="")
    for done, new in enumerate(results, 1):
        yield new
        samples, rejected = samples + new.samples, rejected + len(new.lost)
        text = f"{samples:,} samples, {rejected:,} rejected"
        line = f"{kind}: {done:,} of {parts:,} parts, {text}"
        progress.update(kind, done, parts, line, text=text)


def _is_whole(destination: Destination, result: Result) -> bool:
    """Whether it was completed, and the files beside the shards and the index are there."""
    if result.get("complete") is not True:
        return False
    found, layout = destination.store.list_names(), destination.layout
    index = {MANIFEST, *(sidecar_name(shard["name"]) for shard in result["shards"])}
    if not ({layout.counter} if layout.counter else index) <= destination.shards.list_names().keys():
        return False
    return all(found.get(name) == size for name, size in result["beside"].items())


def _complete(job: Job, destination: Destination, made: Sequence[Made], scratch: Path, workers: int) -> Result:
    """Everything but the shards; what it returns is the same whatever was made when."""
    rejections = Rejections(scratch / REJECTED)
    _collect(job, destination, rejections)
    shards = [part for part in made if part.samples]
    if not shards:
        reason = next(iter(rejections.summary()), "there is nothing in it")
        raise InputError(f"{job.kind}: nothing of SRC can be used ({reason}, most often); check its layout")
    beside = {}
    for name, content in job.finish(made, scratch, rejections.add):
        destination.store.write(name, content)
        beside[name] = len(content) if isinstance(content, bytes) else content.stat().st_size
    rejections.close()
    if rejections.counts:
        destination.store.write(REJECTED, rejections.path)
        beside[REJECTED] = rejections.path.stat().st_size
    else:  # one may be there of an earlier state of the source
        destination.store.remove(REJECTED)
    layout = destination.layout
    if layout.counter:
        destination.shards.write(layout.counter, b"%d\n" % len(shards))
    else:  # workers have written a sidecar beside each shard: they are read, and no shard is scanned again
        build_index(destination.root, workers=1 if workers == 1 else None)
    return {
        "samples": sum(part.samples for part in shards),
        "bytes": sum(part.bytes for part in shards),
        "rejected": rejections.summary(),
        "shards": [
            {
                "name": layout.shard(part.number),
                "samples": part.samples,
                "bytes": part.bytes,
                "rejected": len(part.lost),
            }
            for part in shards
        ],
        "beside": beside,
    }


def _collect(job: Job, destination: Destination, rejections: Rejections) -> None:
    """What was left out before any shard was made, then by shard."""
    for rejected in job.rejected:
        rejections.add(rejected)
    for part in job.parts:
        record = ledger.read_record(destination.records, part)
        assert record is not None  # it was made or found a moment ago
        for rejected in record[1]:
            rejections.add(rejected)
