"""Where the images of triplets come from: files below a folder, or members of tar files below it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from pineco.data_pipeline.prepare.confine import MAX_IMAGE, TOO_LARGE, read_below, resolve_below
from pineco.data_pipeline.prepare.outcome import RejectError

CUT_TAR = "its tar was cut while it was read"


class ImageSource(Protocol):
    """Images by path. Can be pickled; both calls raise RejectError for an image that cannot be had."""

    def size(self, path: str) -> int:
        """Bytes."""
        ...

    def read(self, path: str) -> bytes: ...


@dataclass(frozen=True)
class Files:
    """Files below a folder, wherever links lead below it."""

    root: Path  # resolved

    def size(self, path: str) -> int:
        return resolve_below(self.root, path)[1].st_size

    def read(self, path: str) -> bytes:
        return read_below(self.root, path)


class Place(NamedTuple):
    """Of a member."""

    tar: str  # path below the root
    offset: int
    size: int


@dataclass(frozen=True)
class TarMembers:
    """Members of tar files below a folder."""

    root: Path  # resolved
    places: Mapping[str, Place]

    def size(self, path: str) -> int:
        return self.places[path].size

    def read(self, path: str) -> bytes:
        tar, offset, size = self.places[path]
        if size > MAX_IMAGE:
            raise RejectError(TOO_LARGE, f"{size} bytes")
        with resolve_below(self.root, tar)[0].open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise RejectError(CUT_TAR, tar)
        return data
