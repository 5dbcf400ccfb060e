"""The samples of a shard by webdataset's rule, damage named with shard and offset."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index.samples import READ_AHEAD, index_shard, read_samples, split_name
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.shards import tar_bytes, write_shard


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("000.jpg", "000", "jpg"),
        ("a/b.c/000.seg.PNG", "a/b.c/000", "seg.png"),
        ("a.tar.d/000.txt", "a.tar.d/000", "txt"),
        ("./000.Jpg", "./000", "jpg"),
    ],
)
def test_split_name(name: str, key: str, extension: str) -> None:
    """Members of one sample would not find each other."""
    assert split_name(name) == (key, extension)


@given(st.text("aB0./_é", min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_split_name_agrees_with_webdataset(name: str) -> None:
    """A shard would have other samples here than in every other reader."""
    key, extension = split_name(name)
    theirs, suffix = base_plus_ext(name)
    if theirs is None:  # and in index_shard: no part of a sample
        assert not extension or key[-1:] in ("", "/")
    else:
        assert (key, extension) == (theirs, suffix.lower())


def test_samples_are_consecutive_members_with_one_key(tmp_path: Path) -> None:
    """Images would meet captions of other samples."""
    files = [("1.jpg", b"one"), ("1.TXT", b"uno"), ("1.seg.png", b""), ("0.jpg", b"zero" * 400), ("0.txt", b"nil")]
    shard = write_shard(tmp_path / "a.tar", files)
    assert list(read_samples(shard)) == [
        ("1", {"jpg": b"one", "txt": b"uno", "seg.png": b""}),
        ("0", {"jpg": b"zero" * 400, "txt": b"nil"}),
    ]


def test_members_that_are_part_of_no_sample_are_passed_over(tmp_path: Path) -> None:
    """A README or the hidden twins that macOS writes would make a good shard unreadable."""
    files = [("README", b""), ("._0.jpg", b""), ("0.jpg", b"x"), ("d/._1.jpg", b""), ("0.txt", b"y"), ("end.", b"")]
    assert list(read_samples(write_shard(tmp_path / "a.tar", files))) == [("0", {"jpg": b"x", "txt": b"y"})]


def test_a_key_that_comes_back_is_a_new_sample(tmp_path: Path) -> None:
    """Members far apart would be joined, though no reader of streams can do so."""
    shard = write_shard(tmp_path / "a.tar", [("0.jpg", b"a"), ("1.jpg", b"b"), ("0.txt", b"c")])
    assert [key for key, _ in read_samples(shard)] == ["0", "1", "0"]


def test_members_larger_than_the_read_ahead(tmp_path: Path) -> None:
    """Headers past a long member, or across the border of two reads, would be read from the wrong place."""
    sizes = [READ_AHEAD - 700, 10, 2 * READ_AHEAD + 1, 0, 1]
    files = [(f"{i}.jpg", bytes([i]) * size) for i, size in enumerate(sizes)]
    found = list(read_samples(write_shard(tmp_path / "a.tar", files)))
    assert found == [(str(i), {"jpg": data}) for i, (_, data) in enumerate(files)]


@pytest.mark.parametrize("names", [("0.jpg", "0.jpg"), ("0.jpg", "0.JPG")])
def test_duplicate_members_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """One of two images of a sample would be used, and nobody would know which."""
    write_shard(tmp_path / "shard7.tar", [(name, b"x") for name in names])
    with pytest.raises(InputError, match=rf"shard7\.tar: at byte 1536: two members are called '{names[1]}'"):
        index_shard(LocalStore(tmp_path), "shard7.tar")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar_bytes([]), "an empty shard"),
        (tar_bytes([("README", b"no sample")]), "an empty shard"),
        (b"", "at byte 0: 0 bytes are no tar archive"),
        (b"this is no tar archive " * 99, "at byte 0: bad header checksum"),
        (tar_bytes([("0.jpg", b"x" * 600)])[:1536], "at byte 1536: the archive ends without an end marker"),
        (tar_bytes([("0.jpg", b"x" * 600)])[:1100], "at byte 0: member of 600 bytes reaches past the end"),
    ],
    ids=["empty", "no-sample", "zero-bytes", "text", "cut-between-members", "cut-in-a-member"],
)
def test_a_bad_shard_is_named_with_the_offset(tmp_path: Path, data: bytes, message: str) -> None:
    """One bad shard among ten thousand could not be found."""
    (tmp_path / "shard7.tar").write_bytes(data)
    with pytest.raises(InputError, match=rf"shard7\.tar: {message}") as caught:
        index_shard(LocalStore(tmp_path), "shard7.tar")
    assert str(tmp_path) in str(caught.value)


def test_a_missing_shard_or_folder_is_named(tmp_path: Path) -> None:
    """A mistyped path would give a traceback, or an empty data set."""
    with pytest.raises(InputError, match=r"absent\.tar: no such shard"):
        next(read_samples(tmp_path / "absent.tar"))
    with pytest.raises(InputError, match="no such folder"):
        LocalStore(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no \*\.tar"):
        LocalStore(tmp_path).list_shards()


def test_shards_come_sorted_and_alone(tmp_path: Path) -> None:
    """Sample numbers would depend on the file system; other files would be taken for shards."""
    for name in ("b.tar", "a.tar", "a.tar.tmp", "a.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tar").mkdir()
    assert LocalStore(tmp_path).list_shards() == ["a.tar", "b.tar"]
