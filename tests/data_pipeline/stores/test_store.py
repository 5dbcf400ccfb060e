"""Which roots are opened at all, and reading from a folder."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores.store import LocalStore, open_store


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


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x.tar", "/etc/passwd", "a/x.tar", "x\0.tar", "x\n.tar", "x\udcff.tar"]
)
def test_a_name_stays_in_the_folder(name: str, tmp_path: Path) -> None:
    """A manifest from somewhere else could name any file of the disk."""
    (tmp_path / "x.tar").write_bytes(b"secret")
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="is no name of a shard"):
        LocalStore(tmp_path / "data").read(name, 0, 6)


def test_what_is_there(tmp_path: Path) -> None:
    """An index would be looked for in vain; a folder would go for a file."""
    (tmp_path / "b.json").write_bytes(b"12345")
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "folder.tar").mkdir()
    store = LocalStore(tmp_path)
    assert store.list_names() == {"a.tar": 0, "b.json": 5}
    assert (store.find("b.json"), store.find("none"), store.find("folder.tar")) == (5, None, None)
    assert (store.root_name, store.etag("a.tar"), store.retries) == (str(tmp_path), "", 0)
    os.utime(tmp_path / "a.tar", ns=(7, 7))
    assert store.modified("a.tar") == 7
    store.remove("a.tar")
    store.remove("a.tar")
    assert store.list_names() == {"b.json": 5}


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_what_is_written_is_there_whole(tmp_path: Path, kind: str) -> None:
    """A shard would be short, unreadable for others, or leave its draft behind."""
    (tmp_path / "data").mkdir()
    (tmp_path / "source").write_bytes(content := bytes(range(256)) * 5000)
    store = LocalStore(tmp_path / "data")
    for data in (b"old", content):
        store.write("a.tar", data if kind == "bytes" else _file(tmp_path / "source", data))
        assert store.read("a.tar", 0, 1 << 30) == data
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.tar"]
    assert stat.S_IMODE((tmp_path / "data" / "a.tar").stat().st_mode) == 0o644


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


WRITER = """
import sys
from pathlib import Path
from pineco.data_pipeline.stores.store import LocalStore
store, versions = LocalStore(sys.argv[1]), [bytes([n]) * 300_000 for n in (1, 2)]
print("begun", flush=True)
while True:
    for version in versions:
        store.write("a.tar", version)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """A job that is killed in the middle of a write would leave half a shard under a good name."""
    store, versions = LocalStore(tmp_path), [bytes([n]) * 300_000 for n in (1, 2)]
    root = Path(__file__).parents[3]
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=root, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        before = None
        while before is None or store.modified("a.tar") == before:  # from one write into the next one
            before = store.modified("a.tar") if store.find("a.tar") else None
        process.kill()
        process.communicate()
        assert store.read("a.tar", 0, 1 << 30) in versions
        assert store.list_shards() == ["a.tar"], "a draft goes for a shard"


@pytest.mark.parametrize("what", ["write", "fsync", "replace"])
def test_a_write_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A full disk would show a page of Python, take the old file along, or keep its drafts."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = LocalStore(tmp_path)
    store.write("a.tar", b"old")
    if what == "write":
        monkeypatch.setattr(shutil, "copyfileobj", full)
    else:
        monkeypatch.setattr(os if what == "fsync" else Path, what, full)
    with pytest.raises(
        InputError, match=r"a\.tar: No space left on device; check the path, its permissions and the disk"
    ):
        store.write("a.tar", _file(tmp_path / "source", b"new"))
    assert store.read("a.tar", 0, 9) == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "source"]


def test_what_the_disk_says_is_one_line(tmp_path: Path) -> None:
    """A file that somebody moved away in mid-epoch would end the run with a page of Python."""
    store = LocalStore(tmp_path)
    for ask in (lambda: store.read("a.tar", 0, 1), lambda: store.size("a.tar"), lambda: store.modified("a.tar")):
        with pytest.raises(
            InputError, match=rf"^{tmp_path}/a\.tar: No such file or directory; check the path, its perm"
        ):
            ask()
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(InputError, match=r"a\.tar: Is a directory"):
        store.read("a.tar", 0, 1)
    other = LocalStore(tmp_path / "a.tar")
    (tmp_path / "a.tar").rmdir()
    for listing in (other.list_shards, other.list_names):
        with pytest.raises(InputError, match=r"a\.tar: No such file or directory"):
            listing()


@pytest.mark.parametrize(("offset", "length"), [(0, 1 << 62), (3, 1 << 40), (6, 1), (1 << 70, 1), (1 << 70, 1 << 70)])
def test_a_claim_takes_no_memory(tmp_path: Path, offset: int, length: int) -> None:
    """A damaged index that speaks of exabytes would end in a MemoryError."""
    (tmp_path / "a.tar").write_bytes(b"abcdef")
    assert LocalStore(tmp_path).read("a.tar", offset, length) == b"abcdef"[offset:]


def test_reads_that_the_system_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reads 2 GiB at most at once: the end of a longer range would be missing."""
    (tmp_path / "a.tar").write_bytes(b"abcdefgh")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: pread(descriptor, min(length, 3), offset))
    assert LocalStore(tmp_path).read("a.tar", 0, 8) == b"abcdefgh"
    assert LocalStore(tmp_path).read("a.tar", 2, 5) == b"cdefg"


def test_a_folder_is_made_where_one_is_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index could not go to a new folder; a URL could become one."""
    monkeypatch.chdir(tmp_path)
    assert open_store("a/b", create=True).root_name == "a/b"
    assert (tmp_path / "a" / "b").is_dir()
    for root in ("pipe:x", "http://host/x"):
        with pytest.raises(InputError, match="refused"):
            open_store(root, create=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^file/x: Not a directory; check the path"):
        open_store("file/x", create=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"]
