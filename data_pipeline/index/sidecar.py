"""The index of a shard as a file: magic number, JSON header, rows of 16 bytes a member. Nothing is unpickled.

Every byte stands under a checksum: the header under one in the prefix, the rows under one a group in the header.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import asdict, dataclass, fields

import numpy as np
from isal.isal_zlib import crc32

from pineco.data_pipeline.index.table import HEADER_BYTES, MEMBER, DamagedError, ShardIndex, rows_fit
from pineco.data_pipeline.stores.names import check_name
from pineco.data_pipeline.stores.store import Store

VERSION = 1
MAX_HEADER = 1 << 24  # bytes; a shard of 4 TB has a smaller one
_MAGIC = b"PINECOIX"
_PREFIX = struct.Struct("<8sII")  # magic, bytes of the header, crc32 of the header
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Group:
    """The samples that begin in one stretch of GROUP_BYTES of a shard."""

    samples: int
    crc32: int  # of their rows


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What a manifest says of one shard."""

    name: str
    bytes: int
    etag: str  # of the object; empty for a file
    samples: int
    ignored: int
    headers_crc32: int
    extensions: tuple[str, ...]
    groups: tuple[Group, ...]
    rows_at: int  # byte of the sidecar at which the rows begin
    sidecar_sha256: str

    @property
    def row_bytes(self) -> int:
        return len(self.extensions) * MEMBER.itemsize


def sidecar_name(shard: str) -> str:
    return f"{shard}.index"


def write_sidecar(destination: Store, name: str, index: ShardIndex, size: int, etag: str) -> ShardEntry:
    """Publishes the index of a shard called `name` of `size` bytes; etag: of the object, empty for a file."""
    data = encode_sidecar(index, name=name, size=size, etag=etag)
    destination.write(sidecar_name(name), data)
    return decode_sidecar(data, destination.where(sidecar_name(name)))[0]


def encode_sidecar(index: ShardIndex, *, name: str, size: int, etag: str) -> bytes:
    """The sidecar of a shard called `name` of `size` bytes."""
    rows, begin, groups = np.ascontiguousarray(index.members), 0, []
    for samples in index.group_sizes():
        groups.append(asdict(Group(samples, crc32(rows[begin : begin + samples].tobytes()))))
        begin += samples
    header = {
        "version": VERSION,
        "name": name,
        "bytes": size,
        "etag": etag,
        "samples": len(rows),
        "ignored": index.ignored,
        "headers_crc32": index.headers_crc32,
        "extensions": list(index.extensions),
        "groups": groups,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return _PREFIX.pack(_MAGIC, len(text), crc32(text)) + text + rows.tobytes()


def decode_sidecar(data: bytes, where: str) -> tuple[ShardEntry, ShardIndex]:
    """Raises DamagedError for bytes that are no sidecar, or a damaged one."""
    try:
        return _decode(data)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{where}: no index of a shard, or damaged ({error}); index again") from None


def _decode(data: bytes) -> tuple[ShardEntry, ShardIndex]:
    magic, length, checksum = _PREFIX.unpack_from(data)
    rows_at = _PREFIX.size + length
    text = data[_PREFIX.size : rows_at]
    if magic != _MAGIC or length > MAX_HEADER or crc32(text) != checksum:
        raise ValueError("no magic number, or a wrong checksum")
    header = json.loads(text)
    if header.pop("version") != VERSION:
        raise ValueError("another version")
    entry = read_entry({**header, "rows_at": rows_at, "sidecar_sha256": hashlib.sha256(data).hexdigest()})
    if len(data) != rows_at + entry.samples * entry.row_bytes:
        raise ValueError("wrong length")
    members, begin = np.frombuffer(data, MEMBER, offset=rows_at).reshape(entry.samples, len(entry.extensions)), 0
    for group in entry.groups:
        if crc32(members[begin : begin + group.samples].tobytes()) != group.crc32:
            raise ValueError(f"rows {begin} to {begin + group.samples - 1}")
        begin += group.samples
    if not rows_fit(members, entry.bytes):
        raise ValueError("a member outside of the shard")
    return entry, ShardIndex(entry.extensions, members, entry.ignored, entry.headers_crc32)


def read_entry(found: object) -> ShardEntry:
    """Checks every field of an entry that was read from JSON; raises ValueError, KeyError or TypeError."""
    if not isinstance(found, dict) or found.keys() != _FIELDS:
        raise TypeError("an entry with other fields")
    extensions = tuple(_text(extension) for extension in found["extensions"])
    groups = tuple(Group(_count(g["samples"]), _count(g["crc32"], 1 << 32)) for g in found["groups"])
    entry = ShardEntry(**{**found, "extensions": extensions, "groups": groups})
    for number in (entry.bytes, entry.samples, entry.ignored, entry.rows_at):
        _count(number)
    _count(entry.headers_crc32, 1 << 32)
    check_name(_text(entry.name))
    _text(entry.etag)
    consistent = (
        entry.samples == sum(group.samples for group in groups)
        and entry.samples * HEADER_BYTES <= entry.bytes
        and bool(extensions or not entry.samples)
        and all(group.samples for group in groups)
        and list(extensions) == sorted(set(extensions))
    )
    if not consistent or not _SHA256.fullmatch(_text(entry.sidecar_sha256)):
        raise ValueError(f"entry {entry.name!r} contradicts itself")
    return entry


_FIELDS = {field.name for field in fields(ShardEntry)}


def _count(value: object, limit: int = 1 << 62) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value
