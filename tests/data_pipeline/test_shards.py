"""Which roots are opened at all, and reading from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.shards import LocalStore, open_store


@pytest.mark.parametrize(
    "root",
    [
        "pipe:touch canary",
        " PIPE:touch canary",
        "pipe:aws s3 cp s3://bucket/a.tar -",
        "file:///etc",
        "file:/etc",
        "http://169.254.169.254/latest/meta-data",
        "https://user:password@host/a.tar",
        "gs://bucket/data",
        "S3://bucket/data",
        "-o/etc/canary",
        "--endpoint-url=http://host",
    ],
)
def test_other_schemes_are_refused(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data root in a recipe could run a command, reach a machine's metadata, or show a password."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"refused; pass a folder or s3://bucket/prefix") as caught:
        open_store(root)
    assert "\n" not in str(caught.value)
    assert "password" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", ["$(touch canary)", "`touch canary`", "*.tar", "~/data", "a|touch canary"])
def test_a_root_is_never_expanded(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell somewhere below would run what a recipe says."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such folder of shards"):
        open_store(root)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, or one with a colon, would be taken for a URL."""
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "x.tar").write_bytes(bytes(range(100)))
    monkeypatch.chdir(tmp_path / "a:b")
    for root in (tmp_path / "a:b", str(tmp_path / "a:b"), "../a:b", "."):
        store = open_store(root)
        assert isinstance(store, LocalStore)
        assert store.list_shards() == ["x.tar"]
        assert (store.size("x.tar"), store.read("x.tar", 90, 20)) == (100, bytes(range(90, 100)))
    assert store.where("x.tar") == "x.tar"


@pytest.mark.parametrize("name", ["", ".", "..", "../x.tar", "/etc/passwd", "a/x.tar", "x\0.tar"])
def test_a_name_stays_in_the_folder(name: str, tmp_path: Path) -> None:
    """A manifest from somewhere else could name any file of the disk."""
    (tmp_path / "x.tar").write_bytes(b"secret")
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="is no name of a shard"):
        LocalStore(tmp_path / "data").read(name, 0, 6)
