"""Sidecar and manifest as files: what goes in comes out, and nothing damaged or made up is believed."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.lookup import Index
from pineco.data_pipeline.index.manifest import UNFINISHED, Manifest, decode_manifest, encode_manifest
from pineco.data_pipeline.index.scan import scan_shard
from pineco.data_pipeline.index.sidecar import _PREFIX, ShardEntry, crc32, decode_sidecar, encode_sidecar, sidecar_name
from pineco.data_pipeline.index.table import MEMBER, ShardIndex
from tests.support.indexed import MemoryStore, whole_shard
from tests.support.shards import tar_bytes

SHARD = whole_shard(8)
INDEX = scan_shard(MemoryStore(a=SHARD), "a.tar")
SIDECAR = encode_sidecar(INDEX, name="a.tar", size=len(SHARD), etag="e1")
ENTRY, _ = decode_sidecar(SIDECAR, "here")
MANIFEST = encode_manifest(Manifest((ENTRY, replace(ENTRY, name="b.tar"))))

Change = Callable[[dict[str, Any]], object]


def changed_sidecar(change: Change, rows: bytes | None = None) -> bytes:
    """A sidecar whose header was changed by somebody who knows about checksums."""
    length = _PREFIX.unpack_from(SIDECAR)[1]
    header = json.loads(SIDECAR[_PREFIX.size : _PREFIX.size + length])
    change(header)
    text = json.dumps(header).encode()
    body = SIDECAR[_PREFIX.size + length :] if rows is None else rows
    return _PREFIX.pack(b"PINECOIX", len(text), crc32(text)) + text + body


def changed_manifest(change: Change) -> bytes:
    """A manifest whose last shard was changed by somebody who knows about checksums."""
    found = json.loads(MANIFEST)
    change(found["shards"][-1])
    body = ",\n".join(json.dumps(shard) for shard in found["shards"]) + "\n]}\n"
    samples = sum(shard["samples"] for shard in found["shards"] if type(shard.get("samples")) is int)
    digest = hashlib.sha256(body.encode()).hexdigest()
    facts = f'"format": "pineco index", "version": 1, "samples": {samples}, "sha256": "{digest}"'
    return f'{{{facts}, "shards": [\n{body}'.encode()


def test_what_goes_in_comes_out() -> None:
    """Readers would look for members where there are none."""
    entry, index = decode_sidecar(SIDECAR, "here")
    assert (entry.name, entry.bytes, entry.etag, entry.samples) == ("a.tar", len(SHARD), "e1", 8)
    assert (index.extensions, index.ignored, index.headers_crc32) == (INDEX.extensions, 0, INDEX.headers_crc32)
    assert np.array_equal(index.members, INDEX.members)
    manifest = decode_manifest(MANIFEST, "here")
    assert manifest.shards == (ENTRY, replace(ENTRY, name="b.tar"))
    assert (manifest.samples, manifest.shard_bytes) == (16, 2 * len(SHARD))
    assert decode_sidecar(changed_sidecar(lambda header: None), "here")[0].samples == 8, (
        "the other tests refuse nothing"
    )
    assert decode_manifest(changed_manifest(lambda shard: None), "here") == manifest


def test_a_shard_without_samples_has_an_index() -> None:
    """A valid but empty shard would make the data set unreadable."""
    empty = tar_bytes([("README", b"no sample")])
    index = scan_shard(MemoryStore(a=empty), "a.tar")
    entry, again = decode_sidecar(encode_sidecar(index, name="a.tar", size=len(empty), etag=""), "here")
    assert (entry.samples, entry.groups, entry.ignored, again.members.shape) == (0, (), 1, (0, 0))
    assert len(Index(Manifest((entry,)), {})) == 0
    assert decode_manifest(encode_manifest(Manifest((entry,))), "here").shards == (entry,)
    assert decode_manifest(encode_manifest(Manifest(())), "here").shards == ()


@pytest.mark.parametrize("data", [SIDECAR, MANIFEST], ids=["sidecar", "manifest"])
def test_every_damaged_byte_is_found(data: bytes) -> None:
    """A flipped bit of the disk would send a reader to another member, or change what a shard is said to be."""
    decode = decode_sidecar if data is SIDECAR else decode_manifest
    for at in range(len(data)):
        for bit in (1, 16, 128):
            broken = bytearray(data)
            broken[at] ^= bit
            with pytest.raises(InputError, match=r"^folder/file: .*index again$"):
                decode(bytes(broken), "folder/file")


@pytest.mark.parametrize("data", [SIDECAR, MANIFEST], ids=["sidecar", "manifest"])
def test_every_cut_is_found(data: bytes) -> None:
    """A file that another tool copied in part would go for an index of fewer samples."""
    decode = decode_sidecar if data is SIDECAR else decode_manifest
    for end in range(len(data)):
        with pytest.raises(InputError, match="index again"):
            decode(data[:end], "file")
    with pytest.raises(InputError, match="index again"):
        decode(data + b"\0", "file")


def test_an_unfinished_manifest_says_so() -> None:
    """Somebody would look for damage where indexing only has to go on."""
    with pytest.raises(InputError, match=r"^file: .*\(indexing has begun and not ended\); index again$"):
        decode_manifest(UNFINISHED, "file")


HUGE = 1 << 61
MADE_UP: dict[str, Change] = {
    "more samples than bytes": lambda h: h.update(samples=HUGE, groups=[{"samples": HUGE, "crc32": 0}]),
    "no extensions": lambda h: h.update(extensions=[]),
    "samples of nothing": lambda h: h.update(extensions=[], samples=9, groups=[{"samples": 9, "crc32": 0}]),
    "negative count": lambda h: h.update(ignored=-1),
    "a number that is none": lambda h: h.update(samples=8.0),
    "true for one": lambda h: h.update(ignored=True),
    "a long number": lambda h: h.update(bytes=10**4000),
    "not a number": lambda h: h.update(bytes=float("nan")),
    "a name with folders": lambda h: h.update(name="../../etc/passwd"),
    "a name of two lines": lambda h: h.update(name="a\nb.tar"),
    "a name that is no UTF-8": lambda h: h.update(name="\ud800.tar"),
    "no text": lambda h: h.update(etag=None),
    "extensions out of order": lambda h: h.update(extensions=["txt", "json", "jpg"]),
    "an extension twice": lambda h: h.update(extensions=["jpg", "jpg", "txt"]),
    "extensions of lists": lambda h: h.update(extensions=[["jpg"], ["json"], ["txt"]]),
    "one text for a list": lambda h: h.update(extensions="jpg"),
    "groups of numbers": lambda h: h.update(groups=[8]),
    "groups of texts": lambda h: h.update(groups="ab"),
    "an empty group": lambda h: h["groups"].append({"samples": 0, "crc32": 0}),
    "another sum": lambda h: h["groups"][0].update(samples=7),
    "a wide crc32": lambda h: h["groups"][0].update(crc32=1 << 32),
    "another field": lambda h: h.update({"a\nb": 1}),
    "a missing field": lambda h: h.pop("ignored"),
    "deep nesting": lambda h: h.update(etag=json.loads("[" * 900 + "]" * 900)),
}


@pytest.mark.parametrize("change", MADE_UP.values(), ids=MADE_UP)
def test_made_up_entries_are_refused(change: Change) -> None:
    """An index from elsewhere could fill the memory, leave its folder or crash a run with a page of Python."""
    for decode, data in ((decode_sidecar, changed_sidecar(change)), (decode_manifest, changed_manifest(change))):
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=r"^[^\n]*; index again$"):
                decode(data, "file")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("change", [{"sidecar_sha256": "../x"}, {"sidecar_sha256": "A" * 64}, {"rows_at": -1}])
def test_made_up_places_of_a_sidecar_are_refused(change: dict[str, object]) -> None:
    """The name of a file in the cache is made of them."""
    with pytest.raises(InputError, match="index again"):
        decode_manifest(changed_manifest(lambda shard: shard.update(change)), "file")


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"null", b'"a"', b"[" * 100_000, b"\xff\xfe", b"{", b"9" * 5000])
def test_any_other_json_is_refused(text: bytes) -> None:
    """A file that happens to have the name would end in a traceback."""
    with pytest.raises(InputError, match="index again"):
        decode_manifest(text, "file")
    with pytest.raises(InputError, match="index again"):
        decode_sidecar(_PREFIX.pack(b"PINECOIX", len(text), crc32(text)) + text, "file")
    with pytest.raises(InputError, match="index again"):
        decode_sidecar(_PREFIX.pack(b"PINECOIX", (1 << 32) - 1, crc32(text)) + text, "file")


ROWS = {
    "past the end": (len(SHARD) - 10, 11),
    "far past the end": ((1 << 64) - 1, 1),
    "in the first header": (511, 1),
    "without any member": (0, 0),
}


@pytest.mark.parametrize(("offset", "size"), ROWS.values(), ids=ROWS)
def test_rows_outside_of_the_shard_are_refused(offset: int, size: int) -> None:
    """A reader would ask for bytes that are not there, or for 16 EiB."""
    members = INDEX.members.copy()
    members[3] = (offset, size, 0)
    fits = members.copy()
    fits[3] = (len(SHARD) - 10, 10, 0)
    header, page = _PREFIX.size + _PREFIX.unpack_from(SIDECAR)[1], {"samples": 8, "crc32": crc32(members.tobytes())}
    data = changed_sidecar(lambda h: h.update(groups=[page]), members.tobytes())
    with pytest.raises(InputError, match="a member outside of the shard"):
        decode_sidecar(data, "file")
    manifest = decode_manifest(changed_manifest(lambda shard: shard.update(groups=[page])), "file")
    index = Index(
        Manifest((replace(manifest.shards[1], rows_at=header),)), {"b.tar": SIDECAR[:header] + members.tobytes()}
    )
    with pytest.raises(InputError, match="a member outside of the shard"):
        index.page(0)
    page["crc32"] = crc32(fits.tobytes())
    assert decode_sidecar(changed_sidecar(lambda h: h.update(groups=[page]), fits.tobytes()), "file")[0].samples == 8


def test_a_page_is_checked_against_the_manifest() -> None:
    """Rows of another version of the index would be read at the places of this one."""
    store = MemoryStore()
    manifest = Manifest((ENTRY,))
    store.shards = {sidecar_name("a.tar"): SIDECAR}
    assert np.array_equal(Index(manifest, store).page(0).members, INDEX.members)
    for at in range(ENTRY.rows_at, len(SIDECAR), 7):
        broken = bytearray(SIDECAR)
        broken[at] ^= 1
        store.shards = {sidecar_name("a.tar"): bytes(broken)}
        with pytest.raises(InputError, match=r"a\.tar\.index: damaged, or not the index of these shards; index again"):
            Index(manifest, store).page(0)
    store.shards = {sidecar_name("a.tar"): SIDECAR[:-1]}
    with pytest.raises(InputError, match="damaged"):
        Index(manifest, store).page(0)


def test_a_manifest_that_ends_before_its_sidecar_is_refused() -> None:
    """The checksum of half a page could be made up, and the page would have another shape."""
    half = SIDECAR[ENTRY.rows_at :][:100]
    entry: ShardEntry = replace(ENTRY, groups=(replace(ENTRY.groups[0], crc32=crc32(half)),))
    with pytest.raises(InputError, match="damaged"):
        Index(Manifest((entry,)), {"a.tar": SIDECAR[: ENTRY.rows_at] + half}).page(0)


def test_an_index_of_rows_has_16_bytes_a_member() -> None:
    """15 million samples would not fit where they are said to."""
    assert MEMBER.itemsize == 16
    many = ShardIndex(("jpg",), np.full((100_000, 1), np.array((512, 1, 1), MEMBER)))
    assert len(encode_sidecar(many, name="a.tar", size=1 << 40, etag="")) < 1_600_000 + 300
