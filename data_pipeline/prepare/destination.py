"""Where shards go: a folder or s3://bucket/prefix, with the records of what was made below it in prepare/."""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.job import INDEXED, Layout
from pineco.data_pipeline.stores.store import Store, open_store

RECORDS = "prepare"  # the folder of the records, of the lock, and of what is being written
PREPARED = "prepare.json"
_SCRATCH, _LOCK = "scratch", "lock"
_DRAFT = re.compile(r"\.(\d{1,5}\.(tar|json)|[a-z_]+\.(json|jsonl|txt|csv))")  # what a store is just writing


class Destination:
    """root: a folder, made where it is missing, or s3://bucket/prefix."""

    def __init__(self, root: str, layout: Layout = INDEXED) -> None:
        self.folder = None if root.startswith("s3://") else Path(root)
        self.store = open_store(root, create=True)
        self.root = self.store.root_name
        self.records = open_store(f"{self.root}/{RECORDS}", create=True)
        self.layout = layout

    @cached_property
    def shards(self) -> Store:
        """Not opened before prepare.json is there: its folder would be foreign to the next call."""
        return open_store(f"{self.root}/{self.layout.folder}", create=True) if self.layout.folder else self.store

    @contextmanager
    def claimed(self) -> Iterator[Path]:
        """An empty scratch folder while this process alone writes here.

        A folder is locked. In S3 nothing is: two at once write the same bytes, so that they only waste time.
        """
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="pineco-prepare-") as temporary:
                yield Path(temporary)
        else:
            with _locked(self.folder), _scratch(self.folder, self.layout.folder) as scratch:
                yield scratch


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / RECORDS / _LOCK).open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: that one, forked workers keep
        except BlockingIOError:
            raise InputError(f"{folder}: another process prepares shards here; wait for it") from None
        yield


@contextmanager
def _scratch(folder: Path, shards: str) -> Iterator[Path]:
    """On the disk of the shards, which has the room; what a killed process left there is cleared away."""
    for place in (folder, folder / RECORDS, folder / shards):
        for path in place.glob(".*"):
            if _DRAFT.match(path.name) and path.is_file():
                path.unlink(missing_ok=True)
    scratch = folder / RECORDS / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_destination(root: str, source: Path) -> str:
    """The root as a Destination takes it; raises InputError for one inside the source, or that holds other things.

    Makes nothing yet. source: a folder, or the one file that names everything, resolved.
    """
    mend = f"and no {PREPARED}; choose an empty or a new place"
    if root.startswith("s3://"):
        if foreign := _foreign(sorted(open_store(root).list_names())):
            raise InputError(f"{root}: holds {foreign!r} {mend}")
        return root
    if re.match(r"\s*([a-z][a-z0-9+.-]*:|-)", root, re.IGNORECASE):
        raise InputError("DST is neither a folder nor s3://bucket/prefix; other schemes are refused")
    folder = Path(root).resolve()
    if folder == source or (source.is_dir() and folder.is_relative_to(source)):
        raise InputError(f"{root}: DST is inside SRC; choose a folder outside of {source}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{root}: DST is a file; choose a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if (folder / RECORDS / _LOCK).exists():  # begun, and killed before prepare.json was there
        names.remove(RECORDS)
    if foreign := _foreign(names):
        raise InputError(f"{root}: holds {foreign!r} {mend}")
    return str(folder)


def _foreign(names: list[str]) -> str | None:
    """A name that nobody writes before prepare.json, if that is not there."""
    return None if PREPARED in names else next((name for name in names if not _DRAFT.match(name)), None)
