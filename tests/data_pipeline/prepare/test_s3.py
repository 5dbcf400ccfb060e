"""To a bucket instead of a folder: the same objects, and the same going on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import open_index
from pineco.data_pipeline.stores.s3 import S3Store
from pineco.data_pipeline.stores.store import open_store
from tests.support.prepared import URL, Prepare, tree, write_pairs
from tests.support.s3_access import SECRETS
from tests.support.triplet_sets import nights_row, write_nights


def same_content(found: dict[str, bytes], expected: dict[str, bytes]) -> bool:
    """The index holds ETags, which a folder has none of; the lock is a folder's."""
    ours = {n: d for n, d in expected.items() if not n.endswith((".index", "manifest.json", "/lock"))}
    return found.keys() | {"prepare/lock"} == expected.keys() and all(found[name] == ours[name] for name in ours)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_objects_are_the_files(tmp_path: Path, bucket: Path, prepare: Prepare, workers: int) -> None:
    """A data set in a bucket would not be the one on a disk."""
    source = write_pairs(tmp_path / "src", k4={"txt": b""})
    assert prepare("yfcc15m", source, URL, "--workers", workers).code == 0
    prepare("yfcc15m", source, tmp_path / "dst")
    assert same_content(tree(bucket / "data" / "set"), tree(tmp_path / "dst"))
    assert len(open_index(open_store(URL))) == 8


def test_triplets_go_to_a_bucket(tmp_path: Path, bucket: Path, prepare: Prepare) -> None:
    """The table would be missing beside the images."""
    source = write_nights(tmp_path / "src", [nights_row(0, 0, 1, 2), nights_row(1, 2, 1, 40)])
    assert prepare("nights", source, URL + "/").code == 0
    prepare("nights", source, tmp_path / "dst")
    assert same_content(tree(bucket / "data" / "set"), tree(tmp_path / "dst"))


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 5, 9, 10, 11])
def test_it_goes_on_where_it_was_stopped(
    tmp_path: Path, bucket: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """A lost connection would cost all that was uploaded before."""
    source = write_pairs(tmp_path / "src")
    write = S3Store.write
    written: list[str] = []

    def fail(store: S3Store, name: str, data: bytes | Path) -> None:
        if len(written) == moment:
            raise InputError(f"{store.where(name)}: gave up")
        written.append(name)
        write(store, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "write", fail)
        done = prepare("yfcc15m", source, URL)
        assert (done.code, "gave up" in done.err) == (2, True)
    shards = [name for name in written if name.endswith(".tar")][: max(0, (moment - 1) // 3)]
    written.clear()
    moment = -1
    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "write", fail)
        assert prepare("yfcc15m", source, URL).code == 0
    assert not set(shards) & set(written), "a shard whose record was there was uploaded again"
    prepare("yfcc15m", source, tmp_path / "dst")
    assert same_content(tree(bucket / "data" / "set"), tree(tmp_path / "dst"))


def test_a_prefix_with_other_things_is_refused(tmp_path: Path, bucket: Path, prepare: Prepare) -> None:
    """Other shards would become part of the data set."""
    (bucket / "data" / "set").mkdir(parents=True)
    (bucket / "data" / "set" / "x.tar").write_bytes(b"somebody's")
    done = prepare("yfcc15m", write_pairs(tmp_path / "src"), URL)
    assert (done.code, done.err.count("\n"), "'x.tar'" in done.err) == (2, 1, True)
    assert list(tree(bucket)) == ["data/set/x.tar"]


def test_no_such_bucket_is_one_line(tmp_path: Path, bucket: Path, prepare: Prepare) -> None:
    """A traceback with credentials in it."""
    done = prepare("yfcc15m", write_pairs(tmp_path / "src"), "s3://nowhere/x")
    assert (done.code, done.err.count("\n"), "no such bucket" in done.err) == (2, 1, True)
    assert not any(secret in done.err + done.out for secret in SECRETS.values())
