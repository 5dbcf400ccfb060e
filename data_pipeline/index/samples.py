"""The samples of one shard by webdataset's rules, without checksums: for those who read a whole shard in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores.store import LocalStore, Store
from pineco.data_pipeline.stores.tar import Member, TarError, read_members

READ_AHEAD = 1 << 20  # bytes: many headers of small members come with one read


@dataclass(frozen=True)
class Sample:
    """One webdataset sample: the consecutive members of a shard that share a key."""

    key: str  # path up to the first dot of the file name
    members: dict[str, Member] = field(default_factory=dict)  # by lower-case extension, e.g. "jpg", "seg.png"


def split_name(name: str) -> tuple[str, str]:
    """("a/b.c/000", "seg.png") of "a/b.c/000.seg.png": webdataset's rule, the first dot of the file name."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


def index_shard(store: Store, name: str) -> list[Sample]:
    """The samples of one shard in file order; raises InputError naming shard and offset where it is damaged."""
    samples: list[Sample] = []
    try:
        for member in read_members(_buffered(store, name), store.size(name)):
            key, extension = split_name(member.name)
            if not extension or key[-1:] in ("", "/"):
                continue  # README, ._000.jpg: no part of a sample
            if not samples or samples[-1].key != key:
                samples.append(Sample(key))
            if extension in samples[-1].members:
                raise TarError(member.offset, f"two members are called {member.name!r}")
            samples[-1].members[extension] = member
    except TarError as error:
        raise InputError(f"{store.where(name)}: {error}") from None
    if not samples:
        raise InputError(f"{store.where(name)}: an empty shard; write it again or remove it")
    return samples


def read_samples(path: str | Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, bytes by extension) of every sample of one shard, in file order."""
    path = Path(path)
    store = LocalStore(path.parent)
    if not path.is_file():
        raise InputError(f"{path}: no such shard")
    for sample in index_shard(store, path.name):
        yield sample.key, {e: store.read(path.name, m.offset, m.size) for e, m in sample.members.items()}


class _buffered:  # noqa: N801 - used like a function
    """Serves small reads that move forward out of one larger read."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.start, self.data = 0, b""

    def __call__(self, offset: int, length: int) -> bytes:
        if not self.start <= offset <= offset + length <= self.start + len(self.data):
            self.start, self.data = offset, self.store.read(self.name, offset, max(length, READ_AHEAD))
        begin = offset - self.start
        return self.data[begin : begin + length]
