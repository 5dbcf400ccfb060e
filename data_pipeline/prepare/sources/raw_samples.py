"""Image-text samples as they were downloaded: the members of one tar file, or the files of one folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pineco.data_pipeline.index import split_name
from pineco.data_pipeline.prepare.confine import MAX_IMAGE, TOO_LARGE, read_below
from pineco.data_pipeline.prepare.outcome import Rejected, RejectError
from pineco.data_pipeline.prepare.samples.texts import MAX_TEXT
from pineco.data_pipeline.stores.tar import TarError, read_members

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""In the order in which one is taken; what the bytes are is judged later."""
TEXT_EXTENSIONS = ("txt", "json")
DAMAGED_TAR, DUPLICATE = "damaged tar, the rest is lost", "duplicate key"
Read = Callable[[], bytes]  # raises RejectError


@dataclass(frozen=True)
class RawSample:
    """Members that share a key, not read yet; nothing but images, txt and json is looked at."""

    path: str  # of the tar file or folder, and the key
    members: Mapping[str, Read]  # by extension


def read_tar(path: Path) -> Iterator[RawSample | Rejected]:
    """The samples of a tar file in file order; a damaged one ends with a rejection that names the byte."""
    with path.open("rb") as file:
        handle, size = file.fileno(), os.fstat(file.fileno()).st_size

        def read_at(offset: int, length: int) -> bytes:
            return os.pread(handle, length, offset)

        def members() -> Iterator[tuple[str, Read]]:
            for member in read_members(read_at, size):
                yield member.name, _bounded(read_at, member.offset, member.size, member.name)

        try:
            yield from _samples(path.name, members())
        except TarError as error:
            yield Rejected(path.name, DAMAGED_TAR, str(error))


def read_folder(root: Path, folder: str) -> Iterator[RawSample | Rejected]:
    """The samples of root/folder by name; a link that leads out of root is found when it is read."""

    def reader(path: str, extension: str) -> Read:
        return lambda: read_below(root, path, MAX_TEXT if extension in TEXT_EXTENSIONS else MAX_IMAGE)

    # By key, then name: "a.jpg", "a-b.jpg" and "a.txt" would stand apart otherwise.
    names = sorted((split_name(path.name), path.name) for path in (root / folder).iterdir())
    yield from _samples(folder, ((name, reader(f"{folder}/{name}", extension)) for (_, extension), name in names))


def _bounded(read_at: Callable[[int, int], bytes], offset: int, size: int, name: str) -> Read:
    limit = MAX_TEXT if split_name(name)[1] in TEXT_EXTENSIONS else MAX_IMAGE

    def read() -> bytes:
        if size > limit:
            raise RejectError(TOO_LARGE, f"{name!r} has {size} bytes")
        return read_at(offset, size)

    return read


def _samples(where: str, members: Iterable[tuple[str, Read]]) -> Iterator[RawSample | Rejected]:
    """Consecutive members of one key; a key that comes twice is rejected: nobody knows what belongs to what."""
    seen: set[str] = set()
    for key, group in groupby(_known(members), key=lambda member: member[0]):
        found = [(extension, read) for _, extension, read in group]
        if key in seen or len(dict(found)) < len(found):
            yield Rejected(f"{where}/{key}", DUPLICATE)
        else:
            yield RawSample(f"{where}/{key}", dict(found))
        seen.add(key)


def _known(members: Iterable[tuple[str, Read]]) -> Iterator[tuple[str, str, Read]]:
    """(key, extension, read) of what can be part of a pair; README, ._000.jpg, 000.pyd and 000.seg.png are not."""
    for name, read in members:
        key, extension = split_name(name)
        if extension in IMAGE_EXTENSIONS + TEXT_EXTENSIONS and key[-1:] not in ("", "/"):
            yield key, extension, read
