"""Scanning a shard: the rows of every layout, and no damage that goes unseen."""

from __future__ import annotations

import io
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal.isal_zlib import crc32
from webdataset.tariterators import base_plus_ext

from pineco.data_pipeline.index import scan as scan_module
from pineco.data_pipeline.index.check import difference
from pineco.data_pipeline.index.scan import MAX_KINDS, scan_file, scan_shard
from pineco.data_pipeline.index.table import DamagedError, ShardIndex
from pineco.data_pipeline.stores.tar import BLOCK
from tests.support.indexed import MemoryStore, pairs, whole_shard
from tests.support.shards import Files, tar_bytes, write_shard

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


def scan(data: bytes) -> ShardIndex:
    return scan_shard(MemoryStore(a=data), "a.tar")


def read_back(data: bytes, index: ShardIndex) -> list[dict[str, bytes]]:
    """The bytes of every member of every sample, by extension; each against its checksum."""
    samples = []
    for row in index.members:
        sample = {}
        for extension, (offset, size, checksum) in zip(index.extensions, row.tolist(), strict=True):
            if offset:
                sample[extension] = data[offset : offset + size]
                assert crc32(sample[extension]) == checksum
        samples.append(sample)
    return samples


LAYOUTS: dict[str, tuple[Files, list[dict[str, bytes]], int]] = {
    "clip_benchmark": (
        [("s000.cls", b"3"), ("s000.webp", b"W0"), ("s001.cls", b"7"), ("s001.webp", b"W1")],
        [{"cls": b"3", "webp": b"W0"}, {"cls": b"7", "webp": b"W1"}],
        0,
    ),
    "img2dataset": (
        [("000000.jpg", b"J0"), ("000000.json", b"{}"), ("000000.txt", b"T0"), ("000001.json", b"{}")],
        [{"jpg": b"J0", "json": b"{}", "txt": b"T0"}, {"json": b"{}"}],
        0,
    ),
    "open_clip": (
        [("a/0.txt", b"T"), ("a/0.png", b"P"), ("b/0.png", b"Q"), ("b/0.txt", b"U")],
        [{"txt": b"T", "png": b"P"}, {"png": b"Q", "txt": b"U"}],
        0,
    ),
    "compound extensions": (
        [("0.rgb.png", b"R"), ("0.seg.png", b"S"), ("0.JPG", b"J"), ("0.depth.npy", b"D")],
        [{"rgb.png": b"R", "seg.png": b"S", "jpg": b"J"}],
        1,
    ),
    "dots in folder names": (
        [("v1.0/x.y/0.jpg", b"J"), ("v1.0/x.y/0.txt", b"T"), ("v1.1/x.y/0.jpg", b"K")],
        [{"jpg": b"J", "txt": b"T"}, {"jpg": b"K"}],
        0,
    ),
    "ignored": (
        [(name, name.encode()) for name in ("README", "._0.jpg", "0.jpg", "0.pyd", "0.pth", "0.txt", "x.")],
        [{"jpg": b"0.jpg", "txt": b"0.txt"}],
        5,
    ),
    "a member twice": (
        [("0.jpg", b"A"), ("0.txt", b"T"), ("0.jpg", b"B"), ("0.txt", b"U")],
        [{"jpg": b"A", "txt": b"T"}, {"jpg": b"B", "txt": b"U"}],
        0,
    ),
    "a key that comes back": (
        [("0.jpg", b"A"), ("1.jpg", b"B"), ("0.txt", b"T")],
        [{"jpg": b"A"}, {"jpg": b"B"}, {"txt": b"T"}],
        0,
    ),
    "an ignored sample between": (
        [(name, name.encode()) for name in ("0.jpg", "1.npy", "0.txt", "README", "0.json", "0.npy", "0.cls")],
        [{"jpg": b"0.jpg"}, {"txt": b"0.txt", "json": b"0.json", "cls": b"0.cls"}],
        3,
    ),
    "empty members": ([("0.jpg", b""), ("0.txt", b""), ("1.txt", b"")], [{"jpg": b"", "txt": b""}, {"txt": b""}], 0),
    "no sample": ([("README", b"r" * 1000)], [], 1),
    "no member": ([], [], 0),
}  # fmt: skip


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize(("files", "samples", "ignored"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_rows_of_every_layout(files: Files, samples: list[dict[str, bytes]], ignored: int, tar_format: int) -> None:
    """A data set of that layout would lose samples, or images would meet captions of others."""
    data = tar_bytes(files, tar_format)
    index = scan(data)
    assert read_back(data, index) == samples
    assert index.ignored == ignored
    assert list(index.extensions) == sorted({extension for sample in samples for extension in sample})


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_names_that_need_an_extended_header(tar_format: int) -> None:
    """Long or foreign names would be cut, and samples with the same beginning would become one."""
    names = [f"{'d' * 200}/{n}/é漢.{extension}" for n in range(3) for extension in ("jpg", "txt")]
    data = tar_bytes([(name, name.encode()) for name in names], tar_format)
    index = scan(data)
    assert [sorted(sample.values()) for sample in read_back(data, index)] == [
        sorted(name.encode() for name in names[n : n + 2]) for n in (0, 2, 4)
    ]


@pytest.mark.parametrize("window", [512, 513, 1000, 4096])
def test_the_window_changes_nothing(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """Members or headers on the border of two reads would get wrong places or checksums."""
    data = whole_shard(30)
    whole = scan(data)
    monkeypatch.setattr(scan_module, "WINDOW", window)
    small = scan(data)
    assert difference(whole, small, lambda offset: "") is None
    assert len(read_back(data, small)) == 30


def test_a_file_and_its_groups(tmp_path: Path) -> None:
    """Extents would not be the stretches of 16 MiB that one ranged GET reads."""
    sizes = [9 << 20, 1, 9 << 20, 1, 17 << 20, 1]
    index = scan_file(write_shard(tmp_path / "a.tar", [(f"{n}.jpg", bytes(size)) for n, size in enumerate(sizes)]))
    assert index.group_sizes() == [3, 2, 1]  # samples 3 and 4 begin behind 16 MiB, 5 behind 32
    assert index.first_bytes.tolist() == index.members["offset"][:, 0].tolist()


def test_every_byte_that_is_read_is_told_of() -> None:
    """The progress bar would stand still, or run past its end."""
    data = whole_shard()
    told: list[int] = []
    scan_shard(MemoryStore(a=data), "a.tar", told.append)
    assert sum(told) == len(data)


def test_too_many_kinds_of_members() -> None:
    """Names taken for extensions would make rows of kilobytes a sample."""
    files = [(f"0.v{n}.jpg", b"") for n in range(MAX_KINDS + 1)]
    assert len(scan(tar_bytes(files[:-1])).extensions) == MAX_KINDS
    with pytest.raises(DamagedError, match=rf"a\.tar: at byte \d+: more than {MAX_KINDS} kinds"):
        scan(tar_bytes(files))


def test_a_shard_that_gets_shorter_while_it_is_read() -> None:
    """Checksums of half a member would go into the index."""

    class Shrinking(MemoryStore):
        def size(self, name: str) -> int:
            return len(self.shards[name]) + 4096

    data = tar_bytes([("0.jpg", b"x" * 4000)])[: BLOCK + 1000]
    with pytest.raises(DamagedError, match=r"a\.tar: at byte 1512: the shard is shorter than when it was listed"):
        scan_shard(Shrinking(a=data), "a.tar")


def test_every_cut_of_a_shard_is_found() -> None:
    """D1: an epoch over a shard that was cut in a copy would be short, and nobody would know."""
    data = whole_shard(50)
    whole = scan(data)
    marker = whole.members["offset"].astype(int) + whole.members["size"]
    end = -(-marker.max() // BLOCK) * BLOCK + BLOCK  # behind the first block of the end marker all samples are there
    cuts = [*range(0, len(data), BLOCK), *random.Random(1).sample(range(len(data)), 1000)]
    assert sum(cut < end for cut in cuts) > 1200
    for cut in cuts:
        if cut < end:
            with pytest.raises(DamagedError, match=r"^memory/a\.tar: at byte \d+: ") as caught:
                scan(data[:cut])
            (offset,) = re.findall(r"at byte (\d+):", str(caught.value))
            assert int(offset) < cut + BLOCK  # cut in the padding of a member: where the next header should be
        else:
            assert np.array_equal(scan(data[:cut]).members, whole.members)


def _archives() -> list[bytes]:
    """Small shards of all formats with 20 headers and more, extended ones and directories among them."""
    shards = [tar_bytes(pairs(1, seed, most=300), tar_format) for seed, tar_format in enumerate(FORMATS.values())]
    for tar_format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        shards.append(tar_bytes([(f"{'n' * 120}/0.{e}", b"x" * 20) for e in ("jpg", "txt")], tar_format))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("d/0.jpg"))
        archive.addfile(tarfile.TarInfo("d/0.npy"))
    return [*shards, buffer.getvalue()]


def test_every_flipped_bit_of_a_header_is_found() -> None:
    """D2: a sample could change its name, place or size, or vanish, by one bit."""
    headers = 0
    for data in _archives():
        known = scan(data)
        offsets = [o for o in range(0, len(data), BLOCK) if data[o + 257 : o + 262] == b"ustar"]
        headers += len(offsets)
        for offset in offsets:
            broken = bytearray(data)
            for bit in range(8 * BLOCK):
                broken[offset + bit // 8] ^= 1 << bit % 8
                try:
                    assert difference(known, scan(bytes(broken)), lambda offset: "") is not None, (offset, bit)
                except DamagedError as error:
                    assert f"at byte {offset}:" in str(error)  # noqa: PT017 - the error is one of two right outcomes
                broken[offset + bit // 8] ^= 1 << bit % 8
    assert headers >= 20


def test_every_flipped_bit_of_an_extended_header_is_found() -> None:
    """D2: names in extended headers stand under no checksum of the archive's own."""
    for data in _archives()[3:5]:
        known = scan(data)
        kinds = {data[o + 156] for o in range(0, len(data), BLOCK) if data[o + 257 : o + 262] == b"ustar"}
        assert kinds & set(b"xL")
        for offset in (o for o in range(0, len(data), BLOCK) if data[o + 156 : o + 157] in (b"x", b"L")):
            size = int(data[offset + 124 : offset + 135], 8)
            for bit in range(8 * size):
                broken = bytearray(data)
                broken[offset + BLOCK + bit // 8] ^= 1 << bit % 8
                try:
                    assert difference(known, scan(bytes(broken)), lambda offset: "") is not None
                except DamagedError as error:
                    assert "at byte" in str(error)  # noqa: PT017 - the error is one of two right outcomes


NAMES = st.sampled_from(
    [f"{key}{extension}" for key in ("0", "1", "d/0") for extension in (".jpg", ".TXT", ".npy", "")]
)


@given(st.lists(NAMES, max_size=12))
@settings(max_examples=150, deadline=None)
def test_samples_are_those_of_webdataset(names: list[str]) -> None:
    """Pictures would have other captions here than in every other reader."""
    data = tar_bytes([(name, str(n).encode()) for n, name in enumerate(names)])
    ours = [set(sample.items()) for sample in read_back(data, scan(data))]
    theirs: list[tuple[str, dict[str, bytes]]] = []
    for n, name in enumerate(names):
        key, extension = base_plus_ext(name)
        if key is None:
            continue
        kind = extension.lower()
        if not theirs or theirs[-1][0] != key or (kind in theirs[-1][1] and kind != "npy"):
            theirs.append((key, {}))  # where webdataset finds a name twice, it stops
        theirs[-1][1][kind] = str(n).encode()
    kept = [{item for item in sample.items() if item[0] in ("jpg", "txt")} for _, sample in theirs]
    assert [sample for sample in ours if sample] == [sample for sample in kept if sample]
