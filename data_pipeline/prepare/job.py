"""What every kind of source has in common: parts that become one shard each, independent of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.outcome import Outcome, Rejected

PLACES = 10_000  # samples of a shard: keys have four digits for the place, as img2dataset's
MAX_PARTS = 100_000  # and five for the shard


@dataclass(frozen=True)
class Part:
    """A fixed piece of the source: the same items whatever became of the others."""

    number: int
    source: str  # a file, a folder or a range of items, for people
    bytes: int = 0  # of that file, so that a replaced one is noticed; 0 where no one number says it


@dataclass(frozen=True)
class Made:
    """What became of a part. Its shard is there unless `samples` is 0."""

    number: int
    items: int  # kept and rejected
    samples: int
    bytes: int  # of the shard
    lost: tuple[int, ...]  # which of the items were rejected


@dataclass(frozen=True)
class Layout:
    """What shards are called and where they lie below the destination."""

    folder: str = ""  # the destination itself
    name: str = "{:05d}.tar"  # by number
    counter: str = ""  # a file that says how many there are, for who reads them in order and needs no index

    def shard(self, number: int) -> str:
        return self.name.format(number)


INDEXED = Layout()


@dataclass(frozen=True)
class Fingerprint:
    """Which source it was: how many things its list named, and the sha256 of that list."""

    items: int
    sha256: str


Beside = tuple[str, bytes | Path]  # (name, content) of a file beside the shards
Reject = Callable[[Rejected], None]


class Job(Protocol):
    """A source that was looked through once. Its outcomes are made in other processes, so it can be pickled."""

    @property
    def kind(self) -> str: ...

    @property
    def options(self) -> Mapping[str, object]:
        """Everything but the source that decides bytes; JSON."""
        ...

    @property
    def source(self) -> Fingerprint: ...

    @property
    def parts(self) -> Sequence[Part]: ...

    @property
    def rejected(self) -> Sequence[Rejected]:
        """What was left out before any shard was made."""
        ...

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        """What becomes of each item of a part, in order; the same for every call."""
        ...

    def finish(self, made: Sequence[Made], scratch: Path, reject: Reject) -> Iterator[Beside]:
        """The files beside the shards, once all parts are made. scratch: an empty folder for large ones."""
        ...


def sample_key(number: int, place: int) -> str:
    return f"{number:05d}{place:04d}"


def fingerprint(names: Iterable[str]) -> Fingerprint:
    """Of a list of names; names that are no UTF-8 count as the bytes that they are."""
    digest, items = hashlib.sha256(), 0
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
        items += 1
    return Fingerprint(items, digest.hexdigest())


def slices(items: int, shard_size: int, what: str) -> tuple[Part, ...]:
    """Parts of shard_size items each, the last one shorter; raises InputError for more than keys can number."""
    starts = range(0, items, shard_size)
    if len(starts) > MAX_PARTS:
        raise InputError(f"{items} {what} in shards of {shard_size} make {len(starts)} shards; pass a --shard-size")
    return tuple(Part(n, f"{what} {start} to {min(start + shard_size, items) - 1}") for n, start in enumerate(starts))
