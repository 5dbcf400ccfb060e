"""The toy world: image-text pairs, triplets, zero-shot sets and dense labels, rendered from a seed.

    python -m data_pipeline.toy_world DEST [--seed N --train-pairs N ...]

The files have the layouts of img2dataset, NIGHTS and CLIP_benchmark, so whatever reads the toy world reads
the real sets. A world is a pure function of its settings. `world.json` is written last; without it there is no
world.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, fields
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.toy_world.files import PARTS, write_files
from data_pipeline.toy_world.settings import ToyWorldSettings

SCHEMA = 3  # raise it with any change of the bytes, so that an old world is not taken for a new one
READABLE = (2, SCHEMA)  # version 2 lacks the prompts in shards/triplets, which the one who needs them says
_MARKER = ".partial"  # stands in a folder while its world is being written


def _inventory(root: Path) -> dict[str, tuple[int, str]]:
    """Path -> bytes, sha256 of every file that was written, read back from the disk."""
    found = sorted(path for part in PARTS for path in (root / part).rglob("*") if path.is_file())
    contents = ((path, path.read_bytes()) for path in found)
    return {
        path.relative_to(root).as_posix(): (len(content), hashlib.sha256(content).hexdigest())
        for path, content in contents
    }


def _generate(root: Path, settings: ToyWorldSettings, workers: int) -> None:
    from data_pipeline.toy_world.streamed import make_streamable  # whatever reads a world need not import it

    write_files(root, settings, workers)
    make_streamable(root, workers)
    record = {"schema": SCHEMA, "settings": asdict(settings), "files": _inventory(root)}
    draft = root / f"{_MARKER}.json"
    draft.write_text(json.dumps(record, indent=1))
    draft.replace(root / "world.json")


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
    ours = {*PARTS, _MARKER, f"{_MARKER}.json"} if _MARKER in found else set()
    foreign = sorted(found - ours)
    if foreign and not (root / "world.json").exists():  # another process may have finished it just now
        raise InputError(f"{root} holds {foreign[0]!r} and no toy world: choose an empty or a new folder")


def make_toy_world(root: Path, settings: ToyWorldSettings, *, workers: int | None = None) -> Path:
    """Write the toy world of these settings into root, or find it there; returns root.

    Several processes may ask for the same root at once: one writes, the others wait for it. An interrupted
    generation starts over. workers: processes to render with, by default one per core; they change no byte.
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
            _generate(root, settings, workers)
        (root / _MARKER).unlink(missing_ok=True)
    return root


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.toy_world", description="Write the toy world.")
    parser.add_argument("dest", type=Path, metavar="DEST", help="an empty or new folder")
    for item in fields(ToyWorldSettings):
        flag, text = "--" + item.name.replace("_", "-"), f"{item.metadata['help']} (default {item.default})"
        parser.add_argument(flag, type=int, default=item.default, metavar="N", help=text.replace("%", "%%"))
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = ToyWorldSettings(**{f.name: getattr(options, f.name) for f in fields(ToyWorldSettings)})
        root = make_toy_world(options.dest, settings, workers=options.workers)
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    counts = {name: value for name, value in asdict(settings).items() if name not in ("seed", "jpeg_quality")}
    print(f"toy world in {root}: {', '.join(f'{name}={value}' for name, value in counts.items())}")
    return 0
