"""Where bytes come from: the shards of a folder or of an S3 prefix, and ranges of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from data_pipeline.errors import InputError

_REFUSED = re.compile(r"\s*([a-z][a-z0-9+.-]*)://|\s*(pipe|file|http|https):|\s*(-)", re.IGNORECASE)


class Store(Protocol):
    """Shards by name. Safe for several threads; a shard is not to change while it is read."""

    def list_shards(self) -> list[str]:
        """Names of the shards, sorted; raises InputError when there is none."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a shard."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset`; fewer only where the shard ends."""
        ...

    def where(self, name: str) -> str:
        """Path or URL of a shard, for messages."""
        ...


def open_store(root: str | Path) -> Store:
    """The shards of a folder, or of `s3://bucket/prefix`; every other scheme is refused with an InputError.

    A root is data, never code: nothing in it is run, expanded or fetched by another program.
    """
    text = str(root)
    if text.startswith("s3://"):
        from data_pipeline.s3 import S3Store  # boto3 takes 0.2 s to import, and only S3 needs it

        return S3Store(text)
    if match := _REFUSED.match(text):
        # The rest of the text may hold a password, so it stays out of the message.
        kind = next(group for group in match.groups() if group)
        raise InputError(f"a root of shards that starts with {kind!r} is refused; pass a folder or s3://bucket/prefix")
    return LocalStore(text)


def check_name(name: str) -> str:
    """`name` itself; raises InputError for a name that could lead out of the store."""
    if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        raise InputError(f"{name!r} is no name of a shard; names are taken from the listing, without folders")
    return name


class LocalStore:
    """Webdataset shards (`*.tar`) in one folder of a local or shared file system."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder of shards; check the path, or write the shards first")

    def list_shards(self) -> list[str]:
        """Names of the shards in `root`, sorted; raises InputError when there is none."""
        names = sorted(p.name for p in self.root.iterdir() if p.suffix == ".tar" and p.is_file())
        if not names:
            raise InputError(f"{self.root}: holds no *.tar shard; check the path, or write the shards first")
        return names

    def size(self, name: str) -> int:
        """Bytes of a shard."""
        return self._path(name).stat().st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset`; fewer only where the shard ends."""
        with self._path(name).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def where(self, name: str) -> str:
        return str(self.root / name)

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)
