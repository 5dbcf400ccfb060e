"""Shards are tar archives that every program reads, and their bytes depend on their members alone."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.stores.tar import read_members
from pineco.data_pipeline.stores.tar_writer import MAX_NAME, MAX_SIZE, TarWriter
from tests.support.shards import tar_bytes

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: len(name.encode()) <= MAX_NAME and not name.endswith("/")
)


def written(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for name, data in files:
        writer.add(name, data)
    writer.close()
    return buffer.getvalue()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=20))
def test_bytes_are_those_of_the_standard_library(files: list[tuple[str, bytes]]) -> None:
    """Some tar program would not read our shards, or read other bytes."""
    assert written(files) == tar_bytes(files)


def test_our_parser_reads_it() -> None:
    """We could not read what we write."""
    files = [(f"{i:09}.jpg", bytes([i]) * (511 + i)) for i in range(4)]
    data = written(files)
    found = read_members(lambda offset, length: data[offset : offset + length], len(data))
    assert [(m.name, data[m.offset : m.offset + m.size]) for m in found] == files


@pytest.mark.parametrize(
    "name", ["", "x" * (MAX_NAME + 1), "ü" * 51, "a\0b"], ids=["empty", "long", "long in UTF-8", "zero"]
)
def test_a_name_that_a_header_cannot_hold_is_refused(name: str) -> None:
    """The name would be cut, and two members would have the same one."""
    with pytest.raises(ValueError, match="name"):
        written([(name, b"")])


def test_a_member_that_a_header_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size field would run over into the next one, and the archive end there."""
    assert len(b"%011o" % MAX_SIZE) == 11
    monkeypatch.setattr("pineco.data_pipeline.stores.tar_writer.MAX_SIZE", 9)
    with pytest.raises(ValueError, match="10 bytes"):
        written([("a", bytes(10))])
