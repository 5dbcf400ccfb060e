"""Sidecars, manifests and look-ups that somebody made up: one line that says so, or what is really there."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.lookup import Index
from pineco.data_pipeline.index.manifest import Manifest, decode_manifest, encode_manifest
from pineco.data_pipeline.index.scan import scan_shard
from pineco.data_pipeline.index.sidecar import _PREFIX, ShardEntry, crc32, decode_sidecar, sidecar_name, write_sidecar
from pineco.data_pipeline.index.table import MEMBER, ShardIndex, rows_fit
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.mutations import changed_bytes, changed_json
from tests.support.indexed import MemoryStore, whole_shard


def _data_set() -> tuple[MemoryStore, Manifest]:
    """Three shards of several groups each, indexed."""
    store = MemoryStore(a=whole_shard(12, 1), b=whole_shard(1, 2), c=whole_shard(7, 3))
    before = ShardIndex.group_sizes.__defaults__
    ShardIndex.group_sizes.__defaults__ = (8192,)  # groups of 8 KB instead of 16 MiB
    try:
        names = store.list_shards()
        entries = [write_sidecar(store, n, scan_shard(store, n), store.size(n), "e") for n in names]
    finally:
        ShardIndex.group_sizes.__defaults__ = before
    return store, Manifest(tuple(entries))


STORE, MANIFEST = _data_set()
SIDECAR = STORE.shards[sidecar_name("a.tar")]
ROWS_AT = MANIFEST.shards[0].rows_at
HEADER = json.loads(SIDECAR[_PREFIX.size : ROWS_AT])
SEALED = encode_manifest(MANIFEST)
ENTRIES = json.loads(SEALED)["shards"]


def refuses(decode: Any, data: bytes) -> bool:
    """Whether it raises the one error that it may, in one line."""
    try:
        decode(data, "file")
    except InputError as error:
        assert str(error).startswith("file: ")  # noqa: PT017 - the error is one of two right outcomes
        assert "\n" not in str(error)  # noqa: PT017
        return True
    return False


def seal_sidecar(header: Any, rows: bytes) -> bytes:
    """A sidecar of any header, its checksum right."""
    text = json.dumps(header).encode()
    return _PREFIX.pack(b"PINECOIX", len(text), crc32(text)) + text + rows


def seal_manifest(entries: Any) -> bytes:
    """A manifest of any entries, its checksum right."""
    shards = entries if isinstance(entries, list) else [entries]
    body = ",\n".join(json.dumps(shard) for shard in shards) + "\n]}\n"
    counts = [shard.get("samples") for shard in shards if isinstance(shard, dict)]
    samples = sum(n for n in counts if type(n) is int and abs(n) < 1 << 64)
    digest = hashlib.sha256(body.encode()).hexdigest()
    facts = f'"version": 1, "samples": {samples}, "sha256": "{digest}"'
    return f'{{"format": "pineco index", {facts}, "shards": [\n{body}'.encode()


def check_entry(entry: ShardEntry) -> None:
    assert entry.samples * 512 <= entry.bytes
    assert sum(group.samples for group in entry.groups) == entry.samples
    assert not {"/", "\n", "\0"} & set(entry.name)


@fuzz(changed_bytes([SIDECAR]))
def test_damaged_sidecars(data: bytes) -> None:
    """I2: a damaged sidecar would crash the command that is there to mend it, or be believed."""
    assert data == SIDECAR or refuses(decode_sidecar, data)


@fuzz(changed_bytes([SEALED]))
def test_damaged_manifests(data: bytes) -> None:
    """I2: a damaged manifest would crash every rank at its start, or be believed."""
    assert data == SEALED or refuses(decode_manifest, data)


@fuzz(st.tuples(changed_json(HEADER), st.one_of(st.just(SIDECAR[ROWS_AT:]), changed_bytes([SIDECAR[ROWS_AT:]]))))
def test_made_up_sidecars(made_up: tuple[Any, bytes]) -> None:
    """I2: a sidecar from elsewhere could crash a build, or fill the memory."""
    data = seal_sidecar(*made_up)
    if not refuses(decode_sidecar, data):
        entry, index = decode_sidecar(data, "file")
        check_entry(entry)
        assert rows_fit(index.members, entry.bytes)
        assert index.members.shape == (entry.samples, len(entry.extensions))


@fuzz(changed_json(ENTRIES))
def test_made_up_manifests(entries: Any) -> None:
    """I2: a manifest from elsewhere could name any file, crash a run, or fill the memory."""
    data = seal_manifest(entries)
    if not refuses(decode_manifest, data):
        manifest = decode_manifest(data, "file")
        for entry in manifest.shards:
            check_entry(entry)
        assert decode_manifest(encode_manifest(manifest), "file") == manifest


NUMBERS = st.lists(st.one_of(st.integers(0, 25), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=6)


@fuzz(st.tuples(changed_json(ENTRIES, most=2), st.one_of(st.just(SIDECAR), changed_bytes([SIDECAR])), NUMBERS))
def test_look_ups(made_up: tuple[Any, bytes, list[int]]) -> None:
    """I2: a look-up would leave its shard, or hold a batch for ever."""
    entries, sidecar, numbers = made_up
    try:
        manifest = decode_manifest(seal_manifest(entries), "file")
    except InputError:
        manifest = MANIFEST
    store = MemoryStore()
    store.shards = STORE.shards | {sidecar_name("a.tar"): sidecar}
    held = {sidecar_name(shard.name): shard.bytes for shard in manifest.shards}
    for name in held.keys() - store.shards.keys():
        store.shards[name] = sidecar
    index, samples = Index(manifest, store), np.array(sorted(numbers), np.int64)
    assert len(index) == manifest.samples
    try:
        for page, part in index.pages(samples):
            entry = index.shard(page.shard)
            assert page.members.dtype == MEMBER
            assert page.members.shape[1] == len(entry.extensions)
            assert rows_fit(page.members[part - page.begin], entry.bytes)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - the error is one of three right outcomes
        assert sidecar != SIDECAR or manifest != MANIFEST
    except IndexError:
        assert not all(0 <= number < len(index) for number in numbers)
