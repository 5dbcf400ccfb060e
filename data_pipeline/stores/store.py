"""Where bytes come from: the shards of a folder or of an S3 prefix, and ranges of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import replacing
from pineco.data_pipeline.stores.names import check_name

_REFUSED = re.compile(r"\s*([a-z][a-z0-9+.-]*)://|\s*(pipe|file|http|https):|\s*(-)", re.IGNORECASE)


class Store(Protocol):
    """Shards by name. Safe for several threads; a shard is not to change while it is read.

    What cannot be listed, read or written raises InputError.
    """

    def list_shards(self) -> list[str]:
        """Names of the shards, sorted; raises InputError when there is none."""
        ...

    @property
    def root_name(self) -> str:
        """Folder or URL, as a command line takes it."""
        ...

    @property
    def retries(self) -> int:
        """Requests that had to be made again since the store was opened."""
        ...

    def find(self, name: str) -> int | None:
        """Bytes of a file, None where there is none of that name."""
        ...

    def list_names(self) -> dict[str, int]:
        """Bytes of every file directly below the root, by name."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a shard."""
        ...

    def etag(self, name: str) -> str:
        """What changes with the content of an object; empty for a file, which has no such thing."""
        ...

    def modified(self, name: str) -> int | None:
        """When a file was last changed, in nanoseconds; None for an object, whose ETag says more."""
        ...

    def write(self, name: str, data: bytes | Path) -> None:
        """Publishes bytes, or a copy of a local file, under a name: whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Takes a file away, if there is one of that name."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset`; fewer only where the shard ends."""
        ...

    def where(self, name: str) -> str:
        """Path or URL of a shard, for messages."""
        ...


def open_store(root: str | Path, *, create: bool = False) -> Store:
    """The shards of a folder, or of `s3://bucket/prefix`; every other scheme is refused with an InputError.

    A root is data, never code: nothing in it is run, expanded or fetched by another program. create: makes a folder
    that is missing.
    """
    text = str(root)
    if text.startswith("s3://"):
        from pineco.data_pipeline.stores.s3 import S3Store  # boto3 takes 0.2 s to import, and only S3 needs it

        return S3Store(text)
    if match := _REFUSED.match(text):
        # The rest of the text may hold a password, so it stays out of the message.
        kind = next(group for group in match.groups() if group)
        raise InputError(f"a root of shards that starts with {kind!r} is refused; pass a folder or s3://bucket/prefix")
    if create:
        with _in_one_line(Path(text)):
            Path(text).mkdir(parents=True, exist_ok=True)
    return LocalStore(text)


class LocalStore:
    """Webdataset shards (`*.tar`) in one folder of a local or shared file system."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder of shards; check the path, or write the shards first")

    def list_shards(self) -> list[str]:
        """Names of the shards in `root`, sorted; raises InputError when there is none."""
        with _in_one_line(self.root):
            names = sorted(p.name for p in self.root.iterdir() if p.suffix == ".tar" and p.is_file())
        if not names:
            raise InputError(f"{self.root}: holds no *.tar shard; check the path, or write the shards first")
        return names

    @property
    def root_name(self) -> str:
        return str(self.root)

    @property
    def retries(self) -> int:
        return 0

    def find(self, name: str) -> int | None:
        """Bytes of a file, None where there is none of that name."""
        path = self._path(name)
        with _in_one_line(path):
            return path.stat().st_size if path.is_file() else None

    def list_names(self) -> dict[str, int]:
        """Bytes of every file directly below the root, by name."""
        found = {}
        with _in_one_line(self.root):
            for path in sorted(self.root.iterdir()):
                with suppress(FileNotFoundError):  # gone since it was listed
                    if path.is_file():
                        found[path.name] = path.stat().st_size
        return found

    def size(self, name: str) -> int:
        """Bytes of a shard."""
        path = self._path(name)
        with _in_one_line(path):
            return path.stat().st_size

    def etag(self, name: str) -> str:
        return ""

    def modified(self, name: str) -> int | None:
        path = self._path(name)
        with _in_one_line(path):
            return path.stat().st_mtime_ns

    def write(self, name: str, data: bytes | Path) -> None:
        """Publishes bytes, or a copy of a local file, under a name by one rename."""
        path = self._path(name)
        with _in_one_line(path), replacing(path, sync=True) as draft:
            with draft.open("xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
            draft.chmod(0o644)

    def remove(self, name: str) -> None:
        path = self._path(name)
        with _in_one_line(path):
            path.unlink(missing_ok=True)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset`; fewer only where the shard ends."""
        path = self._path(name)
        with _in_one_line(path), path.open("rb", buffering=0) as file:
            end = min(offset + length, os.fstat(file.fileno()).st_size)  # so that no memory is taken for a mere claim
            data = b""
            while offset + len(data) < end:  # more than once only for over 2 GiB, which is all that Linux reads at once
                more = os.pread(file.fileno(), end - offset - len(data), offset + len(data))
                if not more:
                    break  # the file was cut meanwhile
                data = data + more if data else more
            return data

    def where(self, name: str) -> str:
        return str(self.root / name)

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """What a disk says is for the user: no such file, not allowed, no space left."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path, its permissions and the disk") from None
