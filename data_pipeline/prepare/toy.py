"""A toy world, file by file, to a folder or to S3; shards that have no index yet are indexed there."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import build_index
from pineco.data_pipeline.index.manifest import MANIFEST
from pineco.data_pipeline.prepare import ledger
from pineco.data_pipeline.prepare.confine import resolve_below
from pineco.data_pipeline.prepare.destination import Destination
from pineco.data_pipeline.prepare.job import Fingerprint
from pineco.data_pipeline.prepare.outcome import RejectError
from pineco.data_pipeline.prepare.run import Result, run
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.sources.nights import open_nights
from pineco.data_pipeline.stores.store import open_store
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings
from pineco.data_pipeline.toy_world.world import write_world

WORLD = "world.json"
INDEXED = ("pairs/train", "pairs/val")
TRIPLETS, TRIPLET_SHARDS = "triplets", "shards/triplets"
_IMAGES = 1000  # of a shard of triplets
_BENCHMARKS = "wds/"  # read from their first to their last shard, so that nobody needs an index of them
_THREADS = 16  # files at a time; a copy waits for a disk or for S3


def make_toy_world(root: Path, settings: ToyWorldSettings, *, workers: int | None = None) -> Path:
    """Write the toy world of these settings into root, or find it there, ready to be streamed; returns root.

    Several processes may ask for the same root at once: one writes, the others wait for it. An interrupted
    generation starts over. workers: processes to render with, by default one per core; they change no byte.
    """
    return write_world(root, settings, make_streamable, workers=workers)


def make_streamable(root: Path, workers: int) -> None:
    """Writes the indexes, and the shards of the triplets."""
    root = root.absolute()  # a folder called "pipe:x" is refused where it begins the path
    for folder in INDEXED:
        build_index(root / folder, workers=1)
    job = open_nights((root / TRIPLETS).resolve(), ImageRules(), _IMAGES, workers)
    run(job, Destination(str(root / TRIPLET_SHARDS)), workers)


def prepare_toy(root: Path, place: str, workers: int) -> Result:
    """Makes the default world in `root` unless there is one, and copies it; world.json comes after its files."""
    sizes, destination = _world(root, workers), Destination(place)
    source = Fingerprint(len(sizes), hashlib.sha256((root / WORLD).read_bytes()).hexdigest())
    plan, result = ledger.make_plan("toy", {}, source), {"files": len(sizes), "bytes": sum(sizes.values())}
    with destination.claimed():
        before = ledger.find_plan(destination, plan)
        if before is None:
            ledger.begin(destination, plan)
        folders: dict[str, dict[str, int]] = defaultdict(dict)
        for path, size in sizes.items():
            folders[str(PurePosixPath(path).parent)][PurePosixPath(path).name] = size
        for folder, files in sorted(folders.items()):
            _copy(root / folder, f"{destination.root}/{folder}", files)
            if _wants_index(folder, files):
                build_index(f"{destination.root}/{folder}", workers=1 if workers == 1 else None)
        if before is None or before.get("complete") is not True:
            destination.store.write(WORLD, root / WORLD)
            ledger.finish(destination, plan, result)
    return result


def _wants_index(folder: str, files: Mapping[str, int]) -> bool:
    shards = any(name.endswith(".tar") for name in files)
    return shards and MANIFEST not in files and not folder.startswith(_BENCHMARKS)


def _world(root: Path, workers: int) -> Mapping[str, int]:
    """Bytes of every file of the world in `root`, by path; raises InputError where there is another thing."""
    settings = ToyWorldSettings()
    if (root / WORLD).is_file():
        try:
            settings = ToyWorldSettings(**json.loads((root / WORLD).read_bytes())["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{root / WORLD}: no record of a toy world ({error}); delete that folder") from None
    make_toy_world(root, settings, workers=workers)
    files = json.loads((root / WORLD).read_bytes())["files"]
    return {path: _size(root, path) for path in sorted(files)}


def _size(root: Path, path: str) -> int:
    try:
        real, facts = resolve_below(root, path)
    except RejectError as error:
        raise InputError(f"{root / WORLD}: names {path!r}, {error.reason}; make the world again") from None
    if real != root / path:
        raise InputError(f"{root / WORLD}: {path!r} is a link, which is not followed; make the world again")
    return facts.st_size


def _copy(folder: Path, place: str, files: Mapping[str, int]) -> None:
    """Copies the files of one folder that are not there with the same size."""
    store = open_store(place, create=True)
    there = store.list_names()
    missing = [name for name, size in files.items() if there.get(name) != size]
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda name: store.write(name, folder / name), missing):
            pass
