"""A tar header parser that trusts nothing: checksums, bounded sizes and names, no links, no silent end.

Written instead of using the standard library's module because that one can loop for ever on hostile input (Python
3.11.7) and, in stream mode, takes a bad header for the end of the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from isal.isal_zlib import adler32

from pineco.data_pipeline.errors import InputError

BLOCK = 512
MAX_NAME = 4096  # bytes of a long name or of a pax record block that we are willing to read
MAX_END = 1 << 20  # bytes of zeros after the last member; writers pad to a record, 10 KiB by default
MAX_MEMBER = 1 << 33  # 8 GiB: a larger member is no image, caption or annotation
_REGULAR = (b"0", b"\0", b"7")
_DIRECTORY, _PAX, _PAX_GLOBAL, _GNU_LONG_NAME = b"5", b"x", b"g", b"L"
_ZEROS = bytes(BLOCK)

ReadAt = Callable[[int, int], bytes]  # (offset, length) -> exactly length bytes, fewer only at the end


class Member(NamedTuple):  # a tuple, since one is made for every member of a data set
    name: str
    offset: int  # of the first data byte, from the start of the archive
    size: int  # bytes


class TarError(InputError):
    """The archive is no tar or is damaged: names the byte offset of the header at fault."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"at byte {offset}: {what}")
        self.offset = offset


def read_members(read_at: ReadAt, archive_size: int) -> Iterator[Member]:
    """Yields the regular members of an archive of `archive_size` bytes, in file order.

    Raises TarError at a bad checksum, a member that reaches past the end, a link or device, or a bad end marker.
    """
    offset, long_name = 0, None
    while (header := read_at(offset, BLOCK)) != _ZEROS:
        kind, size = _read_header(header, offset, archive_size)
        data = offset + BLOCK
        if kind in _REGULAR:
            yield Member(long_name or _name(header, offset), data, size)
            long_name = None
        elif kind in (_PAX, _GNU_LONG_NAME):
            _require(size <= MAX_NAME, offset, f"extended header of {size} bytes (limit {MAX_NAME})")
            long_name = _long_name(read_at(data, size), kind, offset) or long_name
        elif kind == _DIRECTORY:
            long_name = None
        elif kind != _PAX_GLOBAL:
            raise TarError(offset, f"member of type {kind!r}: only regular files are read, no links or devices")
        offset = data + -(-size // BLOCK) * BLOCK
    _check_end(read_at, offset, archive_size)


def _require(condition: bool, offset: int, what: str) -> None:
    if not condition:
        raise TarError(offset, what)


def _read_header(header: bytes, offset: int, archive_size: int) -> tuple[bytes, int]:
    """(type, bytes of data) of a member. Makes no message unless it is needed: this runs for every member."""
    if len(header) != BLOCK:
        cut = "the archive ends without an end marker: it was cut, copy it again"
        raise TarError(offset, cut if offset else f"{archive_size} bytes are no tar archive")
    if not _checksum_holds(header):
        raise TarError(offset, "bad header checksum: damaged, or no tar archive")
    size = _size(header, offset)
    if offset + BLOCK + size > archive_size:
        raise TarError(offset, f"member of {size} bytes reaches past the end: cut archive")
    return header[156:157], size


def _check_end(read_at: ReadAt, offset: int, archive_size: int) -> None:
    """Only zeros may follow the end marker: a hole in a broken copy looks like one, so does a joined archive."""
    rest = archive_size - offset
    _require(rest <= MAX_END, offset, f"end marker {rest} bytes before the end: a hole, or archives joined by cat")
    _require(not any(read_at(offset, rest)), offset, "data after the end marker: a hole, or archives joined by cat")


def _checksum_holds(header: bytes) -> bool:
    """The stored sum counts the checksum field itself as eight spaces."""
    stored = header[148:156]
    return _octal(stored) == _byte_sum(header) - sum(stored) + 8 * 32


def _byte_sum(block: bytes) -> int:
    """Of up to 512 bytes. The low half of Adler-32 is 1 plus their sum, modulo more than 256 bytes can sum to."""
    return (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2


def _octal(field: bytes) -> int | None:
    """The number in a field of octal digits, None where it holds none or anything else."""
    digits = field.strip(b" \0")
    if not digits.isdigit():  # int() would take signs, underscores and prefixes
        return None
    try:
        return int(digits, 8)
    except ValueError:  # an 8 or a 9
        return None


def _size(header: bytes, offset: int) -> int:
    field = header[124:136]
    if field[0] == 0x80:  # GNU base-256; 0xFF would be a negative size
        size: int | None = int.from_bytes(field[1:], "big")
    else:
        size = _octal(field) if field.strip(b" \0") else 0
    if size is None:
        raise TarError(offset, f"size field {field!r} is not octal")
    if size > MAX_MEMBER:
        raise TarError(offset, f"member of {size} bytes (limit {MAX_MEMBER})")
    return size


def _text(raw: bytes, offset: int) -> str:
    try:
        return raw.split(b"\0", 1)[0].decode("utf-8")
    except UnicodeDecodeError:
        raise TarError(offset, f"member name {raw[:40]!r} is not UTF-8") from None


def _name(header: bytes, offset: int) -> str:
    name = _text(header[:100], offset)
    if not header[345] or header[257:263] != b"ustar\0":
        return name
    prefix = _text(header[345:500], offset)
    return f"{prefix}/{name}"


def _long_name(data: bytes, kind: bytes, offset: int) -> str | None:
    """The name in a GNU long-name member, or the `path` record of a pax header, if it has one."""
    if kind == _GNU_LONG_NAME:
        return _text(data, offset)
    name = None
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        _require(length.isdigit() and 0 < int(length) <= len(data), offset, "bad pax record length")
        record, data = data[: int(length)], data[int(length) :]
        _require(record.endswith(b"\n"), offset, "bad pax record: no line end")
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        _require(key != b"size", offset, "pax size record: members over 8 GiB are not read")
        name = _text(value, offset) if key == b"path" else name
    return name
