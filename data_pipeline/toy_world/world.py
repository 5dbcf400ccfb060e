"""The toy world: image-text pairs, triplets, zero-shot sets and dense labels, rendered from a seed.

    pineco data toy DEST [--seed N --train-pairs N ...]

The files have the layouts of img2dataset, NIGHTS and CLIP_benchmark, so whatever reads the toy world reads
the real sets. A world is a pure function of its settings. `world.json` is written last; without it there is no
world.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.data_pipeline.toy_world.files import PARTS, write_files
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings

SCHEMA = 3  # raise it with any change of the bytes, so that an old world is not taken for a new one
READABLE = (2, SCHEMA)  # version 2 lacks the prompts in shards/triplets, which the one who needs them says
Finish = Callable[[Path, int], None]
_MARKER = ".partial"  # stands in a folder while its world is being written


def _inventory(root: Path) -> dict[str, tuple[int, str]]:
    """Path -> bytes, sha256 of every file that was written, read back from the disk."""
    found = sorted(path for part in PARTS for path in (root / part).rglob("*") if path.is_file())
    contents = ((path, path.read_bytes()) for path in found)
    return {
        path.relative_to(root).as_posix(): (len(content), hashlib.sha256(content).hexdigest())
        for path, content in contents
    }


def _generate(root: Path, settings: ToyWorldSettings, finish: Finish, workers: int) -> None:
    write_files(root, settings, workers)
    finish(root, workers)
    record = {"schema": SCHEMA, "settings": asdict(settings), "files": _inventory(root)}
    write_text_atomically(root / "world.json", json.dumps(record, indent=1))


def _is_complete(root: Path, settings: ToyWorldSettings) -> bool:
    """Whether this very world is there; another world or a damaged one is an error."""
    if not (root / "world.json").exists():
        return False
    mend = "delete that folder or choose another one"
    try:
        world = json.loads((root / "world.json").read_bytes())
        schema, there, files = world["schema"], dict(world["settings"]), dict(world["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{root}/world.json is not the record of a toy world: {mend}") from error
    if schema not in READABLE:
        raise InputError(f"{root} was written by version {schema} of the toy world, this is {SCHEMA}: {mend}")
    for name, value in asdict(settings).items():
        if there.get(name) != value:
            raise InputError(f"{root} holds a toy world with {name}={there.get(name)}, not {value}: {mend}")
    for path, (size, _) in files.items():
        if not (root / path).is_file() or (root / path).stat().st_size != size:
            raise InputError(f"{root}/{path} is missing or was changed: {mend}")
    return True


def _claim(root: Path) -> None:
    """Make root an empty folder of ours; clear away what an interrupted generation left, and nothing else."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {root}: {error.strerror}") from error
    found = {path.name for path in root.iterdir()}
    foreign = sorted(name for name in found if _MARKER not in found or not _is_ours(name))
    if foreign and not (root / "world.json").exists():  # another process may have finished it just now
        raise InputError(f"{root} holds {foreign[0]!r} and no toy world: choose an empty or a new folder")


def _is_ours(name: str) -> bool:
    return name in (*PARTS, _MARKER) or name.startswith(".world.json.")  # what write_text_atomically may leave


def write_world(root: Path, settings: ToyWorldSettings, finish: Finish, *, workers: int | None = None) -> Path:
    """Write the files of a world into root, or find it there; returns root.

    `finish(root, workers)` adds what is made of the files (indexes, shards of triplets) before the world counts as
    complete. See `prepare.toy.make_toy_world`, which is what everybody calls.
    """
    root = Path(root)
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise InputError(f"toy world: workers must be at least 1, not {workers}")
    if _is_complete(root, settings):
        return root
    _claim(root)
    with (root / _MARKER).open("a") as marker:
        fcntl.lockf(marker, fcntl.LOCK_EX)  # unlike flock, forked workers that outlive us do not hold it
        if not _is_complete(root, settings):
            for part in PARTS:
                shutil.rmtree(root / part, ignore_errors=True)
            _generate(root, settings, finish, workers)
        (root / _MARKER).unlink(missing_ok=True)
    return root
