"""Images in a folder of files, as rows of a reader."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.reader import Members, Origin, ReadCounters, SampleError
from pineco.data_pipeline.triplets.fields import shown

NAMED = 5  # missing files in a message


class ImageFiles:
    """Row i is file i of `paths`, relative to `root`; InputError counts those that are not there, names the first."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root, self.paths = root, paths
        if missing := [path for path in paths if not _is_file(root / path)]:
            named = ", ".join(map(shown, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
            told = f"{root / 'data.csv'}: {len(missing):,} of its {len(paths):,} images are not there: {named}"
            raise InputError(f"{told}; unpack the archive again, or remove their rows")
        self._counters, self._lock = ReadCounters(), threading.Lock()
        self._bytes = sum((root / path).stat().st_size for path in paths)

    @property
    def row_bytes(self) -> float:
        return max(1.0, self._bytes / len(self.paths))

    def read(self, rows: np.ndarray, *, ahead: bool = False) -> dict[int, Members | SampleError]:
        return {row: self._read(self.paths[row]) for row in rows.tolist()}

    @property
    def counters(self) -> ReadCounters:
        return self._counters

    def origin(self, row: int) -> Origin:
        return Origin(str(self.root), self.paths[row], 0)

    def _read(self, path: str) -> Members | SampleError:
        try:
            data = (self.root / path).read_bytes()
        except OSError as error:
            return SampleError(f"{path}: {error.strerror}")
        with self._lock:
            held = self._counters
            self._counters = ReadCounters(held.bytes + len(data), held.reads + 1)
        return {Path(path).suffix.lower().lstrip("."): data}


def _is_file(path: Path) -> bool:
    """A name that is longer than the file system takes is the name of no file."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False
