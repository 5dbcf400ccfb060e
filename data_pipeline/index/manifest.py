"""One file that says what all shards of a data set hold; every process of a run reads it, and nothing larger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.sidecar import ShardEntry, read_entry
from pineco.data_pipeline.stores.store import Store

MANIFEST = "manifest.json"
_FORMAT, _VERSION = "pineco index", 1
MANIFEST_START = f'{{"format": "{_FORMAT}"'.encode()  # no other manifest.json begins so
UNFINISHED = MANIFEST_START + f', "version": {_VERSION}, "unfinished": true}}\n'.encode()  # while shards are scanned


@dataclass(frozen=True)
class Manifest:
    shards: tuple[ShardEntry, ...]  # by name

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def shard_bytes(self) -> int:
        """Of all shards together."""
        return sum(shard.bytes for shard in self.shards)


def index_command(root: str, folder: str | None = None) -> str:
    """What to type to index the shards of `root`, its index in `folder`."""
    return f"pineco data index {root}" + (f" --out {folder}" if folder else "")


def encode_manifest(manifest: Manifest) -> bytes:
    """JSON, a line for every shard."""
    lines = ",\n".join(json.dumps(asdict(shard), separators=(",", ":")) for shard in manifest.shards)
    body = f"{lines}\n]}}\n".encode()
    return _head(manifest, body) + body


def _head(manifest: Manifest, body: bytes) -> bytes:
    facts = f'"version": {_VERSION}, "samples": {manifest.samples}, "sha256": "{hashlib.sha256(body).hexdigest()}"'
    return MANIFEST_START + f', {facts}, "shards": [\n'.encode()


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Raises InputError for bytes that are no manifest, or a damaged one."""
    try:
        found = json.loads(data)
        if (found["format"], found["version"]) != (_FORMAT, _VERSION):
            raise ValueError("another format or version")
        if "unfinished" in found:
            raise ValueError("indexing has begun and not ended")
        manifest = Manifest(tuple(read_entry(entry) for entry in found["shards"]))
        names = [shard.name for shard in manifest.shards]
        if names != sorted(set(names)):
            raise ValueError("shards that are not in order")
        head, line, body = data.partition(b"\n")
        if head + line != _head(manifest, body):  # holds the checksum of the rest, so that no byte goes unchecked
            raise ValueError("a wrong checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: no manifest of an index, or damaged ({error}); index again") from None
    return manifest


def find_manifest(store: Store) -> Manifest | None:
    """The manifest in a store, None where there is none; raises InputError for a damaged one."""
    size = store.find(MANIFEST)
    return None if size is None else decode_manifest(store.read(MANIFEST, 0, size), store.where(MANIFEST))


def check_shards(manifest: Manifest, found: Mapping[str, tuple[int, str]], where: str, mend: str) -> None:
    """Raises InputError where the shards are not those that were indexed. found: (bytes, ETag) by name.

    An ETag is compared where both sides have one: a folder has none, and a copy in a bucket has one of its own.
    """
    indexed = {shard.name: shard for shard in manifest.shards}
    if missing := sorted(indexed.keys() - found.keys()):
        raise InputError(f"{where}: {missing[0]} was indexed and is gone ({len(missing)} such); restore it, or {mend}")
    if new := sorted(found.keys() - indexed.keys()):
        raise InputError(f"{where}: {new[0]} is not in the index ({len(new)} such); {mend}")
    for name, (size, etag) in found.items():
        shard = indexed[name]
        if shard.bytes != size:
            raise InputError(f"{where}: {name} has {size} bytes, {shard.bytes} were indexed; restore it, or {mend}")
        if etag and shard.etag and etag != shard.etag:
            raise InputError(f"{where}: {name} was replaced after it was indexed; restore it, or {mend}")
