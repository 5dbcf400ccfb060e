"""From sample numbers to members, and which shards an index is believed for."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import build_index, open_index, scan_file, scan_shard, write_sidecar
from pineco.data_pipeline.index import lookup as lookup_module
from pineco.data_pipeline.index.lookup import Index
from pineco.data_pipeline.index.manifest import MANIFEST, Manifest, decode_manifest, encode_manifest
from pineco.data_pipeline.index.table import ShardIndex
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.indexed import MemoryStore, pairs, whole_shard, write_data_set
from tests.support.shards import tar_bytes, write_shard


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 8 KB instead of 16 MiB, so that small shards have several."""
    monkeypatch.setattr(ShardIndex.group_sizes, "__defaults__", (8192,))


def data_set(root: Path) -> Path:
    """Shards of different lengths and kinds, one of them empty."""
    write_shard(root / "a.tar", pairs(20, seed=1))
    write_shard(root / "b.tar", [("README", b"")])
    write_shard(root / "c.tar", pairs(1, seed=2, extensions=["png"]))
    write_shard(root / "d.tar", pairs(33, seed=3, extensions=["txt", "webp"]))
    return root


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "scanned"])
def test_every_sample_is_found_where_it_is(tmp_path: Path, grouped: None, indexed: bool) -> None:
    """Batches would hold other samples than the order of samples says."""
    root = data_set(tmp_path)
    if indexed:
        build_index(root, workers=1)
    index = open_index(LocalStore(root))
    expected = [(n, row) for n, name in enumerate("abcd") for row in scan_file(root / f"{name}.tar").members]
    assert len(index) == len(expected) == 54
    assert [len(groups) for groups in index.groups_by_shard()] == [len(s.groups) for s in index.manifest.shards]
    assert sum(len(groups) > 1 for groups in index.groups_by_shard()) == 2
    assert np.concatenate(index.groups_by_shard()).tolist() == index.group_sizes.tolist()
    for samples in (np.arange(54), np.array([0, 19, 20, 21, 53]), np.array([7]), np.empty(0, np.int64)):
        found = []
        for page, numbers in index.pages(samples):
            assert index.shard(page.shard).name == f"{'abcd'[page.shard]}.tar"
            found += [(page.shard, row) for row in page.members[numbers - page.begin]]
        assert len(found) == len(samples)
        for sample, (shard, row) in zip(samples, found, strict=True):
            assert shard == expected[sample][0]
            assert np.array_equal(row, expected[sample][1])


@pytest.mark.parametrize("sample", [-1, 54, 1 << 62])
def test_numbers_that_no_sample_has(tmp_path: Path, sample: int) -> None:
    """A bug in the order would give the last sample again and again."""
    with pytest.raises(IndexError, match="there are 54"):
        open_index(LocalStore(data_set(tmp_path))).group_of(np.array([sample]))


def test_pages_are_kept_and_let_go(tmp_path: Path, grouped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch would read its pages again, or an epoch would fill the memory."""
    root = data_set(tmp_path)
    build_index(root, workers=1)
    index = open_index(LocalStore(root))
    assert index.page(0) is index.page(0)
    monkeypatch.setattr(lookup_module, "PAGES_BYTES", 500)
    for group in range(len(index.group_sizes)):
        index.page(group)
        assert sum(page.members.nbytes for page in index._pages.values()) == index._held <= 500
    assert 1 < len(index._pages) < len(index.group_sizes)


def test_threads_share_an_index(tmp_path: Path, grouped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loader threads would lose pages or count them twice."""
    monkeypatch.setattr(lookup_module, "PAGES_BYTES", 500)
    index = open_index(LocalStore(data_set(tmp_path)))
    groups = [random.Random(n).randrange(len(index.group_sizes)) for n in range(4000)]
    with ThreadPoolExecutor(8) as pool:
        assert [page.group for page in pool.map(index.page, groups)] == groups
    assert sum(page.members.nbytes for page in index._pages.values()) == index._held


def reopen(root: Path) -> Index:
    return open_index(LocalStore(root))


def test_every_cut_after_indexing_is_refused(tmp_path: Path) -> None:
    """D1: training would go on with the samples before the cut."""
    (tmp_path / "a.tar").write_bytes(data := whole_shard(50))
    build_index(tmp_path, workers=1)
    assert len(reopen(tmp_path)) == 50
    cuts = {*range(0, len(data), 512), *random.Random(2).sample(range(len(data)), 1000)}
    for cut in sorted(cuts, reverse=True):
        os.truncate(tmp_path / "a.tar", cut)
        with pytest.raises(
            InputError, match=rf"a\.tar has {cut} bytes, {len(data)} were indexed; restore it, or run pineco data index"
        ):
            reopen(tmp_path)


def test_shards_that_come_and_go_are_refused(tmp_path: Path) -> None:
    """Sample numbers would move, and a resumed run would see others."""
    root = write_data_set(tmp_path)
    build_index(root, workers=1)
    late = write_shard(root / "late.tar", pairs(1))
    with pytest.raises(InputError, match=r"late\.tar is not in the index \(1 such\); run pineco data index"):
        reopen(root)
    late.unlink()
    (root / "00001.tar").rename(tmp_path / "gone")
    with pytest.raises(
        InputError, match=r"00001\.tar was indexed and is gone \(1 such\); restore it, or run pineco data index"
    ):
        reopen(root)


def test_an_object_that_was_replaced_is_refused() -> None:
    """Objects of the same size would be read at the offsets of other ones."""

    class Tagged(MemoryStore):
        tag = "first"

        def etag(self, name: str) -> str:
            return self.tag

    store = Tagged(a=whole_shard(3))
    entry = write_sidecar(store, "a.tar", scan_shard(store, "a.tar"), store.size("a.tar"), "first")
    store.write(MANIFEST, encode_manifest(Manifest((entry,))))
    assert len(open_index(store)) == 3
    store.tag = "second"
    with pytest.raises(InputError, match=r"a\.tar was replaced after it was indexed; restore it, or run"):
        open_index(store)
    store.tag = ""  # a copy in a folder
    assert len(open_index(store)) == 3


def test_an_index_in_another_folder(tmp_path: Path) -> None:
    """Data on a read-only disk could not be indexed."""
    root, out = write_data_set(tmp_path / "data"), tmp_path / "new" / "index"
    build_index(root, out, workers=1)
    assert sorted(path.name for path in root.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    index = open_index(LocalStore(root), str(out))
    assert [page.shard for page, _ in index.pages(np.arange(60))] == [0, 1, 2]
    (out / MANIFEST).unlink()
    with pytest.raises(InputError, match=rf"manifest\.json: not there; run pineco data index {root} --out {out}"):
        open_index(LocalStore(root), str(out))
    with pytest.raises(InputError, match="no such folder"):
        open_index(LocalStore(root), str(tmp_path / "nowhere"))


def test_a_missing_sidecar_is_named(tmp_path: Path) -> None:
    """A traceback would come in the middle of an epoch."""
    root = write_data_set(tmp_path)
    build_index(root, workers=1)
    (root / "00001.tar.index").unlink()
    index = reopen(root)
    with pytest.raises(InputError, match=r"00001\.tar\.index: No such file or directory; check the path"):
        list(index.pages(np.arange(60)))


def test_a_large_data_set_without_an_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start of every rank would read terabytes first."""
    root = write_data_set(tmp_path)
    assert len(reopen(root)) == 60
    with (root / "huge.tar").open("wb") as file:
        file.truncate(lookup_module.SCAN_LIMIT)
    with pytest.raises(InputError, match=r"4 GiB of shards without an index; run pineco data index"):
        reopen(root)


def test_the_index_on_the_fly_is_the_index_of_the_command(tmp_path: Path) -> None:
    """A cache would be keyed otherwise, and numbers would change when a data set is indexed later."""
    root = write_data_set(tmp_path)
    scanned = reopen(root).manifest
    build_index(root, workers=1)
    assert scanned == decode_manifest((root / MANIFEST).read_bytes(), "") == reopen(root).manifest


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    """Readers would find members at made-up places."""
    root = write_data_set(tmp_path)
    build_index(root, workers=1)
    whole = (root / MANIFEST).read_bytes()
    for at in range(0, len(whole), 5):
        broken = bytearray(whole)
        broken[at] ^= 4
        (root / MANIFEST).write_bytes(broken)
        with pytest.raises(
            InputError, match=r"^[^\n]*manifest\.json: no manifest of an index, or damaged .*; index again$"
        ):
            reopen(root)


def test_shards_that_are_no_tar_are_named(tmp_path: Path) -> None:
    """A download of error pages would be looked for among ten thousand shards."""
    root = write_data_set(tmp_path)
    (root / "00001.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(InputError, match=r"00001\.tar: at byte 0: bad header checksum"):
        reopen(root)
    (root / "00001.tar").write_bytes(tar_bytes([]))
    assert len(reopen(root)) == 40
