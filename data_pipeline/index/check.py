"""Reads every shard again and compares it with what was indexed; writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.build import over_shards, sort_out, take_part
from pineco.data_pipeline.index.manifest import MANIFEST, Manifest, check_shards, find_manifest, index_command
from pineco.data_pipeline.index.samples import split_name
from pineco.data_pipeline.index.scan import Window, scan_shard
from pineco.data_pipeline.index.sidecar import ShardEntry, decode_sidecar, sidecar_name
from pineco.data_pipeline.index.table import DamagedError, ShardIndex
from pineco.data_pipeline.index.workers import Place, open_place
from pineco.data_pipeline.stores.store import Store
from pineco.data_pipeline.stores.tar import read_members


def check_index(
    root: str | Path,
    out: str | Path | None = None,
    workers: int | None = None,
    *,
    part: tuple[int, int] | None = None,
    show: bool = False,
) -> Manifest:
    """The manifest of the shards, every one of which was read again; arguments as for `build_index`.

    Raises DamagedShardsError with a line for every shard that is not as it was indexed, InputError without an index.
    """
    folder = None if out is None else str(out)
    place, mend = open_place(str(root), folder), f"run {index_command(str(root), folder)}"
    manifest = find_manifest(place.sidecars)
    if manifest is None:
        raise InputError(f"{place.sidecars.where(MANIFEST)}: not there; {mend}")
    names = place.shards.list_shards()
    found = {name: (place.shards.size(name), place.shards.etag(name)) for name in names}
    check_shards(manifest, found, place.shards.root_name, mend)
    checked = over_shards(_check, place, take_part(names, part), workers, "checking" if show else None)
    known = {shard.name: shard for shard in manifest.shards}
    sort_out([_compare_entries(entry, known, place) for entry in checked])
    return manifest


def _check(place: Place, name: str, advance: Callable[[int], object]) -> ShardEntry | DamagedError:
    """The entry of a shard that is as its sidecar says."""
    sidecar = sidecar_name(name)
    size, where = place.sidecars.find(sidecar), place.sidecars.where(sidecar)
    if size is None:
        return DamagedError(f"{where}: not there; index again")
    try:
        entry, known = decode_sidecar(place.sidecars.read(sidecar, 0, size), where)
        found = scan_shard(place.shards, name, advance)
    except DamagedError as error:
        return error
    what = difference(known, found, lambda offset: _key_at(place.shards, name, offset))
    return entry if what is None else DamagedError(f"{place.shards.where(name)}: {what}")


def _compare_entries(
    result: ShardEntry | DamagedError, known: dict[str, ShardEntry], place: Place
) -> ShardEntry | DamagedError:
    if isinstance(result, DamagedError) or result == known.get(result.name):
        return result
    where = place.sidecars.where(sidecar_name(result.name))
    return DamagedError(f"{where}: is not the sidecar that {MANIFEST} speaks of; index again")


def difference(known: ShardIndex, found: ShardIndex, key_at: Callable[[int], str]) -> str | None:
    """What is not as it was indexed; None where all is. key_at: the sample that has data at an offset."""
    if (known.extensions, len(known.members)) != (found.extensions, len(found.members)):
        return f"{_holds(found)}; {_holds(known)} when it was indexed"
    differing = np.argwhere(known.members != found.members)
    if len(differing):
        row, column = (int(n) for n in differing[0])
        offset = int(found.members[row, column]["offset"]) or int(known.members[row, column]["offset"])
        where = f"sample {key_at(int(found.first_bytes[row]))!r}, .{known.extensions[column]} at byte {offset}"
        more = f" ({len(differing)} members of this shard)" if len(differing) > 1 else ""
        return f"{where}: changed since it was indexed{more}; copy the shard again, or index again"
    if (known.ignored, known.headers_crc32) != (found.ignored, found.headers_crc32):
        return "a header changed since it was indexed, the samples are whole; copy the shard again, or index again"
    return None


def _holds(index: ShardIndex) -> str:
    return f"{len(index.members)} samples of {' '.join(f'.{e}' for e in index.extensions) or 'nothing'}"


def _key_at(store: Store, name: str, offset: int) -> str:
    members = read_members(Window(store, name), store.size(name))
    return next(split_name(member.name)[0] for member in members if member.offset == offset)
