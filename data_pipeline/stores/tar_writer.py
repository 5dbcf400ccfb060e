"""Webdataset shards whose bytes depend on their members alone: plain USTAR, no time, no user, no group.

Written instead of using webdataset's writer because that one imports torch, seconds in every worker process.
"""

from __future__ import annotations

from typing import BinaryIO

from pineco.data_pipeline.stores.tar import BLOCK

RECORD = 20 * BLOCK  # bytes; archives are padded to a multiple, as every tar program does
MAX_NAME = 100  # bytes; what the name field of a header holds
MAX_SIZE = 8**11 - 1  # bytes of a member; what the size field of a header holds


class TarWriter:
    """Appends regular files to an archive; `close` writes the end marker and leaves `file` open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._written = file, 0

    def add(self, name: str, data: bytes) -> None:
        """Raises ValueError for a name or a size that a plain header cannot hold."""
        self._write(_header(name, len(data)) + data + bytes(-len(data) % BLOCK))

    def close(self) -> None:
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._written % RECORD))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._written += len(data)


def _header(name: str, size: int) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) <= MAX_NAME or b"\0" in raw:
        raise ValueError(f"{name!r}: a member's name has 1 to {MAX_NAME} bytes, none of them zero")
    if size > MAX_SIZE:
        raise ValueError(f"{name!r}: {size} bytes, a member has {MAX_SIZE} at most")
    fields = raw.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 0
    rest = b"0" + bytes(100) + b"ustar\x0000"
    checksum = sum(fields) + 8 * ord(" ") + sum(rest)  # the field itself counts as spaces
    return (fields + b"%06o\0 " % checksum + rest).ljust(BLOCK, b"\0")
