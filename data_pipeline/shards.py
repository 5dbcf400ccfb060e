"""Where bytes come from: the shards of a folder, and ranges of them."""

from __future__ import annotations

import os
from pathlib import Path

from data_pipeline.errors import InputError


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
        return (self.root / name).stat().st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset`; fewer only where the shard ends."""
        with (self.root / name).open("rb") as file:
            return os.pread(file.fileno(), length, offset)
