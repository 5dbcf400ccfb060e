"""The tar parser and the scanner on hostile archives: an error that names the place, or members that are there."""

from __future__ import annotations

import tarfile
from itertools import pairwise

from hypothesis import strategies as st

from pineco.data_pipeline.index.scan import WINDOW, scan_shard
from pineco.data_pipeline.index.table import DamagedError, rows_fit
from pineco.data_pipeline.stores.tar import BLOCK, MAX_END, MAX_NAME, Member, TarError, read_members
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.mutations import changed_bytes
from tests.support.indexed import MemoryStore, pairs
from tests.support.shards import tar_bytes
from tests.support.tar_headers import header, padded, reader

SIZES = st.one_of(
    st.integers(0, 3 * BLOCK).map(lambda n: b"%011o\0" % n),
    st.integers(0, 1 << 40).map(lambda n: b"\x80" + n.to_bytes(11, "big")),
    st.binary(min_size=12, max_size=12),
)
KINDS = st.sampled_from([b"0", b"\0", b"5", b"x", b"g", b"L", b"2"])
RECORDS = [b"20 path=hello/a.jpg\n", b"9 size=1\n", b"3 a", b" " * 60, b"12 path=a\n"]
BLOCKS = st.one_of(
    st.builds(header, KINDS, SIZES, st.binary(max_size=100)),
    st.binary(min_size=BLOCK, max_size=BLOCK),
    st.sampled_from(RECORDS).map(padded),
    st.just(bytes(BLOCK)),
)
ARCHIVES = [
    tar_bytes(files, tar_format)
    for files in (list(pairs(2, most=700)), [(f"{'d' * 120}/é/0.{e}", b"x" * 600) for e in ("jpg", "txt")])
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    if tar_format != tarfile.USTAR_FORMAT or files[0][0].isascii()
]


def members(data: bytes) -> list[Member]:
    """What the parser finds; fails where it asks for bytes before the archive, or for a lot of bytes."""
    read = reader(data)

    def read_at(offset: int, length: int) -> bytes:
        assert 0 <= offset <= len(data) + BLOCK
        assert 0 <= length <= max(BLOCK, MAX_NAME, MAX_END)
        return read(offset, length)

    return list(read_members(read_at, len(data)))


def check(data: bytes) -> None:
    found: list[Member] | None = None
    try:
        found = members(data)
    except TarError as error:
        assert 0 <= error.offset <= len(data) + BLOCK  # noqa: PT017 - the error is one of two right outcomes
        assert "\n" not in str(error)  # noqa: PT017
    if found is not None:
        assert all(BLOCK <= m.offset <= m.offset + m.size <= len(data) for m in found)
        assert all(before.offset + before.size < after.offset for before, after in pairwise(found))
    store = MemoryStore(a=data)
    try:
        index = scan_shard(store, "a.tar")
    except DamagedError as error:
        assert "memory/a.tar: at byte" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert found is None or len(found) > 64, "the scanner refuses what the parser takes"
    else:
        assert found is not None
        assert rows_fit(index.members, len(data))
        assert (index.members["offset"] > 0).sum() + index.ignored == len(found)
    assert store.read_bytes <= WINDOW + 2 * len(data), "read again and again"


@fuzz(st.binary(max_size=4 * BLOCK))
def test_random_bytes(data: bytes) -> None:
    """I2: garbage in a shard would end a run with an error that names no shard, or never."""
    check(data)


@fuzz(st.lists(BLOCKS, max_size=8).map(b"".join))
def test_right_checksums_over_random_fields(data: bytes) -> None:
    """I2: a made-up archive with right checksums would get past the first check and crash or hang the parser."""
    check(data)


@fuzz(changed_bytes(ARCHIVES))
def test_archives_that_are_nearly_right(data: bytes) -> None:
    """I2: damage in the middle of a good shard would crash the parser, or send it backwards."""
    check(data)
