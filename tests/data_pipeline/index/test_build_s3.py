"""An index of shards in a bucket, over a network that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import build_index, open_index
from pineco.data_pipeline.index.manifest import MANIFEST, decode_manifest
from pineco.data_pipeline.stores.store import LocalStore, open_store
from tests.support.commands import command
from tests.support.faults import FaultProxy
from tests.support.indexed import pairs
from tests.support.s3_access import Start, environment, folder, start
from tests.support.shards import tar_bytes, write_shard

main = command("data index")

__all__ = ["environment", "folder", "start"]  # the fixtures
URL = "s3://bucket/data"
BUSY = {"action": "status", "value": 503, "probability": 0.1}
BREAKS = {"action": "cut", "value": 30_000, "method": "GET", "key": "*.tar", "probability": 0.3}


@pytest.fixture
def shards(folder: Path) -> Path:
    (folder / "a.tar").unlink()
    for n in range(4):
        write_shard(folder / f"{n}.tar", pairs(15, seed=n))
    return folder


def asked(proxy: FaultProxy, method: str) -> list[str]:
    """Names of the objects of these requests, each once."""
    return sorted(
        {request.path.removeprefix("/bucket/data/") for request in proxy.requests if request.method == method}
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_an_index_of_a_bucket(start: Start, shards: Path, tmp_path: Path, workers: int) -> None:
    """D3: samples would be missing or wrong in an index made on a bad day, and training would trust it."""
    store, proxy = start(BUSY, BREAKS)
    manifest = build_index(URL, workers=workers)
    assert {fault.action for fault in proxy.fired} == {"status", "cut"}
    assert decode_manifest((shards / MANIFEST).read_bytes(), "") == manifest
    local = build_index(shards, tmp_path / "local", workers=1)
    for entry, same in zip(manifest.shards, local.shards, strict=True):
        assert entry.etag == store.etag(entry.name) != ""
        bare: dict[str, Any] = {"etag": "", "rows_at": 0, "sidecar_sha256": ""}
        assert replace(entry, **bare) == replace(same, **bare)
    here, there = open_index(LocalStore(shards), str(tmp_path / "local")), open_index(open_store(URL))
    for (page, _), (same_page, _) in zip(there.pages(np.arange(60)), here.pages(np.arange(60)), strict=True):
        assert np.array_equal(page.members, same_page.members)


def test_a_bucket_is_not_read_twice(start: Start, shards: Path) -> None:
    """A second start would cost the traffic of the whole data set."""
    _, proxy = start()
    build_index(URL, workers=1)
    assert asked(proxy, "GET")[1:] == [f"{n}.tar" for n in range(4)]
    first = (shards / MANIFEST).read_bytes()
    (shards / MANIFEST).unlink()
    _, proxy = start()
    build_index(URL, workers=1)
    assert [name for name in asked(proxy, "GET") if name.endswith(".tar")] == []
    assert asked(proxy, "PUT") == [MANIFEST]
    assert (shards / MANIFEST).read_bytes() == first


def test_an_object_that_was_replaced(start: Start, shards: Path) -> None:
    """Offsets of the old object would be read in the new one of the same size."""
    start()
    build_index(URL, workers=1)
    assert len(open_index(open_store(URL))) == 60
    old = (shards / "2.tar").read_bytes()
    (shards / "2.tar").unlink()
    (shards / "2.tar").write_bytes(new := tar_bytes(sorted(pairs(15, seed=2), key=lambda file: file[0][::-1])))
    assert len(old) == len(new)
    with pytest.raises(
        InputError, match=rf"2\.tar was replaced after it was indexed; restore it, or run .*index {URL}"
    ):
        open_index(open_store(URL))
    _, proxy = start()
    build_index(URL, workers=1)
    assert [name for name in asked(proxy, "GET") if name.endswith(".tar")] == ["2.tar"]
    assert asked(proxy, "PUT") == ["2.tar.index", MANIFEST]
    assert len(open_index(open_store(URL))) == 15 * 3 + 45


def test_an_object_that_changes_while_it_is_indexed(
    start: Start, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first half of the rows would be those of another object."""
    start({"action": "etag", "key": "*/2.tar", "method": "GET"})
    assert main([URL, "--workers", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"pineco: {URL}/2.tar: the object changed while it was read")
    assert not (shards / MANIFEST).exists()


def test_an_index_elsewhere(start: Start, shards: Path, tmp_path: Path) -> None:
    """Buckets of others, which cannot be written to, could not be indexed; nor folders, for a bucket of one's own."""
    _, proxy = start()
    build_index(URL, tmp_path / "index", workers=1)
    assert asked(proxy, "PUT") == []
    assert len(open_index(open_store(URL), str(tmp_path / "index"))) == 60
    build_index(shards, "s3://bucket/elsewhere", workers=1)
    assert len(open_index(LocalStore(shards), "s3://bucket/elsewhere")) == 60
    assert len(open_index(open_store(URL), "s3://bucket/elsewhere")) == 60, "the same bytes, though without an ETag"


def test_a_bucket_that_cannot_be_written_to(start: Start, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user would look for the fault in their shards."""
    start({"action": "status", "value": 403, "method": "PUT"})
    assert main([URL, "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pineco: {URL}/0.tar.index: status 403")
    assert "s3:PutObject" in error
    assert error.count("\n") == 1


def test_a_check_of_a_bucket(start: Start, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the network changes would go for what is stored."""
    start()
    build_index(URL, workers=1)
    assert main([URL, "--check", "--workers", "1"]) == 0
    start({"action": "flip", "value": 600, "key": "*/1.tar", "method": "GET"})
    assert main([URL, "--check", "--workers", "1"]) == 2
    assert f"pineco: {URL}/1.tar: sample '000000', .jpg at byte 512: changed" in capsys.readouterr().err
