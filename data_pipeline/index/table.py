"""The index of one shard: a row for every sample, a column for every kind of member."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pineco.data_pipeline.errors import InputError

GROUP_BYTES = 16 << 20  # of a shard: what one ranged GET reads, and what one page of an index describes
MEMBER = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")])  # offset 0: the sample has no such member
READ_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "txt", "json", "cls")  # or that end so: "seg.png"
HEADER_BYTES = 512  # before the data of every member, so no sample begins earlier


class DamagedError(InputError):
    """A shard or an index that is cut, damaged or something else; the other ones can still be gone on with."""


@lru_cache(1024)
def is_read(extension: str) -> bool:
    """Whether members called so can be asked for; others (npy, pyd, pth, ...) are counted and ignored."""
    return extension.rpartition(".")[2] in READ_EXTENSIONS


@dataclass(frozen=True)
class ShardIndex:
    """Where the members of one shard lie. N samples in file order, C kinds of members."""

    extensions: tuple[str, ...]  # C names, sorted, e.g. ("jpg", "json", "txt")
    members: np.ndarray  # (N, C) of MEMBER
    ignored: int = 0  # members that are never read
    headers_crc32: int = 0  # of all headers and of the end marker, in file order

    @property
    def first_bytes(self) -> np.ndarray:
        """(N,) int64: the offset at which each sample's data begins."""
        offsets = self.members["offset"].astype(np.int64)
        return np.where(offsets == 0, np.iinfo(np.int64).max, offsets).min(axis=1, initial=np.iinfo(np.int64).max)

    def group_sizes(self, group_bytes: int = GROUP_BYTES) -> list[int]:
        """Samples that begin in each `group_bytes` of the shard; groups without any are left out."""
        groups = self.first_bytes // group_bytes
        return np.unique(groups, return_counts=True)[1].tolist()


class Rows:
    """The rows of a shard while they are found, in 40 bytes a member."""

    def __init__(self) -> None:
        self.columns: dict[str, int] = {}  # by extension, in the order in which they came
        self._cells = array("q")  # of every member: row, column, offset, size, crc32
        self._row = -1
        self._filled = 0  # a bit for every column of the last row

    def add(self, extension: str, offset: int, size: int, checksum: int, *, same_sample: bool) -> None:
        """A member of the last sample, or of a new one; a kind of member that comes twice begins a new one."""
        column = self.columns.setdefault(extension, len(self.columns))
        if not same_sample or self._filled >> column & 1:
            self._row, self._filled = self._row + 1, 0
        self._filled |= 1 << column
        self._cells.extend((self._row, column, offset, size, checksum))

    def index(self, ignored: int = 0, headers_crc32: int = 0) -> ShardIndex:
        row, column, *values = np.frombuffer(self._cells, np.int64).reshape(-1, 5).T
        extensions = tuple(sorted(self.columns))
        places = np.array([extensions.index(extension) for extension in self.columns], np.int64)
        members = np.zeros((self._row + 1, len(extensions)), MEMBER)
        for field, value in zip(("offset", "size", "crc32"), values, strict=True):
            members[field][row, places[column]] = value
        return ShardIndex(extensions, members, ignored, headers_crc32)


def rows_fit(members: np.ndarray, shard_bytes: int) -> bool:
    """Whether every sample has a member, and every member lies within the shard; members: (N, C) of MEMBER."""
    there = members["offset"] != 0
    offsets, sizes = members["offset"][there], members["size"][there]
    within = (offsets >= HEADER_BYTES) & (offsets <= shard_bytes) & (sizes <= shard_bytes - offsets)
    return bool(there.any(axis=1).all() and within.all())
