"""The tar parser: what the standard library reads, and a loud end for whatever is damaged or hostile."""

from __future__ import annotations

import io
import tarfile

import pytest

from pineco.data_pipeline.stores.tar import BLOCK, MAX_END, Member, TarError, read_members
from tests.support.shards import tar_bytes
from tests.support.tar_headers import CHECKSUM, header, padded, reader

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
SHARD = [(f"{i:03}.{extension}", bytes([i + 1]) * (300 * i)) for i in range(4) for extension in ("jpg", "txt")]


def members(data: bytes) -> list[Member]:
    return list(read_members(reader(data), len(data)))


def oracle(data: bytes) -> list[Member]:
    """What the standard library says of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [Member(m.name, m.offset_data, m.size) for m in archive if m.isreg()]


def archive_of(entries: list[tarfile.TarInfo], tar_format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(b"\xa5" * entry.size))
    return buffer.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, mtime: float = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = size, kind, mtime
    return info


def pax(records: bytes) -> bytes:
    """An archive whose only file has a pax header of these bytes."""
    return header(b"x", b"%011o\0" % len(records)) + padded(records) + header() + bytes(2 * BLOCK)


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize(
    "entries",
    [
        [entry("0.jpg", 1), entry("0.txt", 0), entry("1.jpg", 511), entry("1.txt", 512), entry("2.jpg", 513)],
        [entry("d", kind=tarfile.DIRTYPE), entry("d/0.jpg", 5), entry("d/e.f/0.seg.png", 5)],
        [entry("/".join(["n" * 60] * 3) + "/0.jpg", 7), entry("1.jpg", 3)],
        [entry(f"{'d' * 90}/{'e' * 90}", kind=tarfile.DIRTYPE), entry("0.jpg", 9)],
        [],
    ],
    ids=["sizes", "directories", "long-name", "short-name-after-long-directory", "empty"],
)
def test_equals_the_standard_library(entries: list[tarfile.TarInfo], tar_format: int) -> None:
    """An image or caption would be read under a wrong name or from a wrong place."""
    data = archive_of(entries, tar_format)
    assert members(data) == oracle(data)
    assert len(members(data)) == sum(e.isreg() for e in entries)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_equals_the_standard_library_where_ustar_cannot_go(tar_format: int) -> None:
    """Shards with float times, names of over 255 bytes or names outside ASCII would not be read."""
    long = "x" * 300
    entries = [entry("0.jpg", 4, mtime=1.5), entry(f"{long}/1.jpg", 4), entry("é/漢字.txt", 4), entry("3.jpg", 4)]
    entries.insert(3, entry(f"{long}/é", kind=tarfile.DIRTYPE))
    data = archive_of(entries, tar_format)
    assert members(data) == oracle(data)
    assert [m.name for m in members(data)] == ["0.jpg", f"{long}/1.jpg", "é/漢字.txt", "3.jpg"]


def test_pax_global_header_is_passed_over() -> None:
    """Archives made by `git archive` start with one and would be refused."""
    data = header(b"g", b"%011o\0" % 10) + padded(b"10 a=bcde\n") + tar_bytes(SHARD)
    assert members(data) == oracle(data)


def test_old_tar_without_magic() -> None:
    """Files written by tar of before POSIX would get the bytes behind the name as a folder."""
    block = bytearray(header(b"\0"))
    block[257:265], block[345:350] = bytes(8), b"ghost"
    block[CHECKSUM] = b" " * 8
    block[CHECKSUM] = b"%06o\0 " % sum(block)
    assert members(bytes(block) + bytes(2 * BLOCK)) == [Member("a.jpg", BLOCK, 0)]


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS.keys())
def test_every_flipped_bit_of_a_header_is_noticed(tar_format: int) -> None:
    """A damaged header would move, rename or drop members in silence.

    Three flips only turn the padding of the checksum field from zero, NUL or space into another of these: no
    value changes, and neither do the members.
    """
    entries = [entry("0.jpg", 600, mtime=0.5), entry("d", kind=tarfile.DIRTYPE), entry(f"{'n' * 60}/{'é' * 30}", 3)]
    data = archive_of(entries, tar_format)
    headers = [o for o in range(0, len(data), BLOCK) if data[o + 257 : o + 262] == b"ustar"]
    assert len(headers) == {"ustar": 3, "pax": 5, "gnu": 4}[next(n for n, f in FORMATS.items() if f == tar_format)]
    whole = members(data)
    for offset in headers:
        unnoticed = set()
        for bit in range(8 * BLOCK):
            broken = bytearray(data)
            broken[offset + bit // 8] ^= 1 << bit % 8
            try:
                assert members(bytes(broken)) == whole
                unnoticed.add(divmod(bit, 8))
            except TarError as error:
                assert error.offset == offset  # noqa: PT017 - the error is one of two right outcomes
        assert unnoticed == {(148, 4), (154, 5), (155, 5)}


def test_every_flipped_bit_of_the_end_marker_is_noticed() -> None:
    """Damage there would go for the end of the archive."""
    data = tar_bytes(SHARD[:1])
    end = BLOCK
    for bit in range(8 * 2 * BLOCK):
        broken = bytearray(data)
        broken[end + bit // 8] ^= 1 << bit % 8
        with pytest.raises(TarError):
            members(bytes(broken))


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS.keys())
def test_truncation_is_never_a_silent_end(tar_format: int) -> None:
    """An epoch over a shard that was cut while it was copied would be short, and nobody would know."""
    data = archive_of([entry(f"{'n' * 110}/{i}.jpg", 700 * i, mtime=0.5) for i in range(6)], tar_format)
    whole = members(data)
    marker = whole[-1].offset + -(-whole[-1].size // BLOCK) * BLOCK
    for cut in range(0, len(data), BLOCK // 2):
        if cut < marker + BLOCK:
            with pytest.raises(TarError):
                members(data[:cut])
            with pytest.raises(TarError):  # the file got shorter after its size was asked for
                list(read_members(reader(data[:cut]), len(data)))
        else:
            assert members(data[:cut]) == whole


def test_a_hole_is_never_a_silent_end() -> None:
    """A copy with a block of zeros over a header (a hole of a broken download) would end there."""
    data = tar_bytes(SHARD)
    for m in members(data):
        hole = m.offset - BLOCK
        with pytest.raises(TarError, match="hole") as caught:
            members(data[:hole] + bytes(BLOCK) + data[hole + BLOCK :])
        assert caught.value.offset == hole


def test_joined_archives_are_refused() -> None:
    """`cat a.tar b.tar` would lose all samples of b."""
    with pytest.raises(TarError, match="joined by cat"):
        members(tar_bytes(SHARD[:2]) + tar_bytes(SHARD[2:]))


def test_zeros_behind_the_end_are_limited() -> None:
    """A file that was allocated in full and filled in part would go for a short archive."""
    data = header()
    assert members(data + bytes(MAX_END)) == [Member("a.jpg", BLOCK, 0)]
    with pytest.raises(TarError, match="hole"):
        members(data + bytes(MAX_END + BLOCK))


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"K", b"S", b"D", b"A", b"\xff"])
def test_links_devices_and_unknown_types_are_refused(kind: bytes) -> None:
    """A link could point out of the archive, a sparse file would be read as if it were whole."""
    with pytest.raises(TarError, match="only regular files"):
        members(header(kind) + bytes(2 * BLOCK))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (b"\xff" * 12, "not octal"),
        (b"\xff" * 11 + b"\xfe", "not octal"),
        (b"-0000000001\0", "not octal"),
        (b"0000 000001\0", "not octal"),
        (b"0x000000001\0", "not octal"),
        (b"\x80" + b"\xff" * 11, "limit"),
        (b"\x80" + (1 << 34).to_bytes(11, "big"), "limit"),
        (b"\x80" + (1 << 20).to_bytes(11, "big"), "reaches past the end"),
        (b"00000004000\0", "reaches past the end"),
    ],
)
def test_hostile_sizes_are_refused(size: bytes, message: str) -> None:
    """A negative size sends a parser backwards for ever, a huge one exhausts the memory."""
    with pytest.raises(TarError, match=message):
        members(header(size=size) + bytes(3 * BLOCK))


def test_base_256_size() -> None:
    """Members whose writer stores the size in binary would be refused."""
    data = header(size=b"\x80" + (700).to_bytes(11, "big")) + padded(b"x" * 700) + bytes(2 * BLOCK)
    assert members(data) == oracle(data) == [Member("a.jpg", BLOCK, 700)]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (b"5010 comment=" + b"x" * 4996 + b"\n", "extended header of 5010 bytes"),
        (b"20 size=99999999999\n", "pax size record"),
        (b"0 path=x\n", "record length"),
        (b"99 path=x\n", "record length"),
        (b"-9 path=x\n", "record length"),
        (b"path=x\n", "record length"),
        (b"9" * 4090, "record length"),
        (b"2 " * 2000, "no line end"),
        (b"11 path=\xff\xfe\n", "not UTF-8"),
    ],
)
def test_hostile_pax_headers_are_refused(records: bytes, message: str) -> None:
    """A pax header could exhaust the memory, loop for ever or change a size behind the parser's back."""
    with pytest.raises(TarError, match=message):
        members(pax(records))


def test_names_that_are_not_utf_8_are_refused() -> None:
    """Keys would depend on the locale of the machine."""
    with pytest.raises(TarError, match="not UTF-8"):
        members(header(name=b"\xe9.jpg") + bytes(2 * BLOCK))
