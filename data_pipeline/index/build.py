"""Indexes shards: a sidecar for each as soon as it is scanned, the manifest of all last. Run again, it goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.manifest import MANIFEST, MANIFEST_START, UNFINISHED, Manifest, encode_manifest
from pineco.data_pipeline.index.scan import scan_shard
from pineco.data_pipeline.index.sidecar import ShardEntry, decode_sidecar, sidecar_name, write_sidecar
from pineco.data_pipeline.index.table import DamagedError
from pineco.data_pipeline.index.workers import Place, Report, Work, for_each, open_place
from pineco.data_pipeline.progress import BAR, BYTES, LEFT, NAME, SPEED, Progress
from pineco.data_pipeline.stores.store import Store


class DamagedShardsError(InputError):
    """Shards that could not be indexed, or are not what was indexed; one line for each."""

    def __init__(self, lines: Sequence[str], shards: int) -> None:
        self.lines, self.summary = list(lines), f"{len(lines)} of {shards} shards are not as they should be"
        super().__init__(f"{self.summary}, the first: {lines[0]}")


def build_index(
    root: str | Path,
    out: str | Path | None = None,
    workers: int | None = None,
    *,
    part: tuple[int, int] | None = None,
    show: bool = False,
) -> Manifest:
    """Indexes the shards of a folder or of s3://bucket/prefix; a shard that was indexed as it is now is not read again.

    out: another folder or prefix for the index, made where it is missing. workers: processes, by default as many as are
    worth their start; they change no byte. part: (k, n) indexes every nth shard from the kth on, k = 1 ... n, and
    writes no manifest; a last call without it collects. show: progress on stderr.
    Raises DamagedShardsError once all other shards are done; then no manifest is written.
    """
    place = open_place(str(root), None if out is None else str(out), create=True)
    _refuse_foreign(place.sidecars)
    names = take_part(place.shards.list_shards(), part)
    results = over_shards(_index, place, names, workers, "indexing" if show else None)
    entries = sort_out(results)
    manifest = Manifest(tuple(sorted(entries, key=lambda entry: entry.name)))
    if part is None:
        place.sidecars.write(MANIFEST, encode_manifest(manifest))
    return manifest


def over_shards(
    work: Work[ShardEntry | DamagedError], place: Place, names: Sequence[str], workers: int | None, what: str | None
) -> list[ShardEntry | DamagedError]:
    """What becomes of each shard; what: the word before the progress, None for no progress."""
    total = sum(place.shards.size(name) for name in names)
    columns = NAME, "{task.fields[shards]}", BAR, BYTES, SPEED, LEFT
    with Progress(*columns, show=what is not None, eager=False, transient=True) as progress:
        report = _report(progress, what or "", total, len(names))
        return for_each(work, place, names, workers=workers, report=report)


def _report(progress: Progress, what: str, total: int, shards: int) -> Report:
    """Makes of (bytes, shards) what is told of them. total: bytes of all shards."""

    def report(done: int, ready: int) -> None:
        far = f"{ready:,} of {shards:,} shards"

        def line(rate: float, left: float) -> str:
            minutes = f", {left / 60:.0f} min left" if rate else ""
            return f"{what} {far}, {done / 1e9:.1f} of {total / 1e9:.1f} GB, {rate / 1e6:.0f} MB/s{minutes}"

        progress.update(what, done, total, line, shards=far)

    progress.begin(what, total, shards="")
    return report


def sort_out(results: Sequence[ShardEntry | DamagedError]) -> list[ShardEntry]:
    """The entries; raises DamagedShardsError where there is anything else."""
    entries = [result for result in results if isinstance(result, ShardEntry)]
    if lines := sorted(str(result) for result in results if isinstance(result, DamagedError)):
        raise DamagedShardsError(lines, len(results))
    return entries


def parse_part(text: str) -> tuple[int, int]:
    """(3, 16) of "3/16"."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"part {text!r} is not of the form K/N with 1 <= K <= N, for example 3/16")
    return int(match[1]), int(match[2])


def take_part(names: Sequence[str], part: tuple[int, int] | None) -> Sequence[str]:
    return names if part is None else names[part[0] - 1 :: part[1]]


def _index(place: Place, name: str, advance: Callable[[int], object]) -> ShardEntry | DamagedError:
    if entry := _known(place, name):
        advance(entry.bytes)
        return entry
    _retract_manifest(place.sidecars)
    before = _state(place.shards, name)
    try:
        found = scan_shard(place.shards, name, advance)
    except DamagedError as error:
        return error
    if _state(place.shards, name) != before:
        raise InputError(f"{place.shards.where(name)}: changed while it was indexed; leave the shards alone")
    return write_sidecar(place.sidecars, name, found, place.shards.size(name), place.shards.etag(name))


def _known(place: Place, name: str) -> ShardEntry | None:
    """What the sidecar of a shard says, if it is whole and of the shard as it is now."""
    sidecar = sidecar_name(name)
    size, etag = place.sidecars.find(sidecar), place.shards.etag(name)
    if size is None or not (etag or _is_newer(place.sidecars.modified(sidecar), place.shards.modified(name))):
        return None
    data = place.sidecars.read(sidecar, 0, size)
    try:
        entry, _ = decode_sidecar(data, place.sidecars.where(sidecar))
    except DamagedError:  # written anew
        return None
    return entry if (entry.name, entry.bytes, entry.etag) == (name, place.shards.size(name), etag) else None


def _is_newer(sidecar: int | None, shard: int | None) -> bool:
    """Strictly, since clocks of file systems tick in milliseconds; a sidecar in S3 does not say when it was written."""
    return sidecar is not None and shard is not None and sidecar > shard


def _state(shards: Store, name: str) -> tuple[int, int | None]:
    return shards.size(name), shards.modified(name)


def _retract_manifest(sidecars: Store) -> None:
    """A manifest of other shards must not go for the manifest of these, should this process never come to its end."""
    if sidecars.find(MANIFEST) not in (None, len(UNFINISHED)):
        sidecars.write(MANIFEST, UNFINISHED)


def _refuse_foreign(sidecars: Store) -> None:
    if sidecars.find(MANIFEST) is not None and sidecars.read(MANIFEST, 0, len(MANIFEST_START)) != MANIFEST_START:
        mend = "move it away, or pass another folder for the index as --out"
        raise InputError(f"{sidecars.where(MANIFEST)}: is no manifest of an index and would be overwritten; {mend}")
