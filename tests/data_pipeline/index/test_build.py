"""pineco data index: what it writes, what it keeps, what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import DamagedShardsError, build_index, open_index, scan_file, write_sidecar
from pineco.data_pipeline.index.manifest import MANIFEST, UNFINISHED, decode_manifest
from pineco.data_pipeline.index.workers import WORTH, Place, choose_workers
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.commands import command
from tests.support.indexed import (
    REPOSITORY,
    MemoryStore,
    age,
    contents,
    pairs,
    whole_shard,
    write_data_set,
)
from tests.support.indexed import shards_read as shards_read
from tests.support.shards import tar_bytes, write_shard

main = command("data index")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user could not tell whether the data set is the one they meant."""
    root = write_data_set(tmp_path / "data")
    write_shard(root / "e.tar", [("README", b"")])
    write_shard(root / "f.tar", [])
    assert main([str(root)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    facts = r"5 shards, 60 samples, 1 members ignored, 0\.00 GB, \d+\.\d s"
    assert re.fullmatch(rf"2 shards without a sample: e\.tar f\.tar\nindexed: {facts}: {root}/manifest\.json\n", out)
    names = {f"{name}.tar.index" for name in ("00000", "00001", "00002", "e", "f")}
    assert contents(root).keys() == {MANIFEST, *names}
    assert len(open_index(LocalStore(root))) == 60
    assert main([str(root), "--check"]) == 0
    assert re.search(rf"^as indexed: {facts}: {root}/manifest\.json$", capsys.readouterr().out, re.MULTILINE)


def test_help_is_fast() -> None:
    """People would wait for boto3 or torch to read a line of help."""
    code = (
        "import sys\nfrom pineco.data_pipeline.index.command import main\n"
        "try: main(['--help'])\nfinally: print('LOADED', *{'torch', 'boto3', 'rich', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert "pineco data index" in done.stdout
    assert done.stdout.split("LOADED")[1].strip() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder of shards; check the path, or write the shards first"),
        (["."], r".: holds no \*.tar shard; check the path, or write the shards first"),
        (["http://host/data"], r"a root of shards that starts with 'http' is refused; pass a folder or s3://.*"),
        (["data", "--out", "pipe:x"], r"a root of shards that starts with 'pipe' is refused; pass a folder or s3://.*"),
        (["data", "--out", "data/a.tar/x"], r"data/a\.tar/x: Not a directory; check the path, its.*"),
        (["data", "--workers", "0"], "workers must be at least 1, not 0"),
        (["data", "--part", "0/3"], r"part '0/3' is not of the form K/N with 1 <= K <= N, for example 3/16"),
        (["data", "--part", "4/3"], r"part '4/3' is not .*"),
        (["data", "--part", "1"], r"part '1' is not .*"),
        (["data", "--check"], r"data/manifest\.json: not there; run pineco data index data"),
        (
            ["data", "--check", "--out", "."],
            r"manifest\.json: not there; run pineco data index data --out \.",
        ),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """A mistyped path would give a traceback, or write an index where nobody looks for it."""
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "data" / "a.tar", pairs(1))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"pineco: {message}\n", err)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "data"]


def test_workers_change_no_byte(tmp_path: Path) -> None:
    """An index would depend on the machine, and every cache would be keyed anew."""
    root = write_data_set(tmp_path / "data", shards=7)
    for workers in (1, 2, 3):
        build_index(root, tmp_path / str(workers), workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")
    assert len(contents(tmp_path / "1")) == 8


def test_small_data_sets_start_no_process() -> None:
    """Every test and every toy run would wait for processes to start."""
    store = MemoryStore(a=b"", b=b"", c=b"")
    place = Place(store, store)
    assert choose_workers(None, place, store.list_shards()) <= 1
    assert choose_workers(2, place, store.list_shards()) == 2
    assert choose_workers(9, place, store.list_shards()) == 3
    store.size = lambda name: 100 * WORTH  # type: ignore[method-assign]
    assert choose_workers(None, place, store.list_shards()) == min(3, len(os.sched_getaffinity(0)))


def test_what_is_done_is_kept(tmp_path: Path, shards_read: list[str]) -> None:
    """A second start would read terabytes again."""
    root = write_data_set(tmp_path, shards=4)
    age(root)
    build_index(root, workers=1)
    first = contents(root)
    assert shards_read == ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]
    shards_read.clear()
    assert build_index(root, workers=1) == decode_manifest(first[MANIFEST], "")
    assert shards_read == []
    (root / MANIFEST).unlink()
    (root / "00002.tar.index").unlink()
    build_index(root, workers=1)
    assert shards_read == ["00002.tar"]
    assert contents(root) == first


def test_what_has_changed_is_read_again(tmp_path: Path, shards_read: list[str]) -> None:
    """The index would describe a shard that is no longer there."""
    root = write_data_set(tmp_path / "data", shards=5)
    age(root)
    build_index(root, workers=1)
    shards_read.clear()
    (root / "00000.tar").write_bytes((root / "00001.tar").read_bytes())  # another size, and newer
    os.utime(root / "00002.tar")  # as if written again with the same size
    sidecar = bytearray((root / "00003.tar.index").read_bytes())
    sidecar[-1] ^= 1
    (root / "00003.tar.index").write_bytes(sidecar)
    (root / "00004.tar.index").write_bytes((root / "00001.tar.index").read_bytes())  # of another shard
    build_index(root, workers=1)
    assert shards_read == ["00000.tar", "00002.tar", "00003.tar", "00004.tar"]
    build_index(root, tmp_path / "fresh", workers=1)
    assert contents(tmp_path / "fresh") == contents(root)


def test_the_time_of_a_shard_that_is_as_old_as_its_sidecar_says_nothing(tmp_path: Path, shards_read: list[str]) -> None:
    """A shard written in the same tick of the clock, after its sidecar, would keep the old one."""
    root = write_data_set(tmp_path, shards=1)
    build_index(root, workers=1)
    shards_read.clear()
    written = (root / "00000.tar.index").stat().st_mtime_ns
    os.utime(root / "00000.tar", ns=(written, written))
    build_index(root, workers=1)
    assert shards_read == ["00000.tar"]


def test_a_shard_that_changes_while_it_is_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows would be those of the old shard, and the sidecar would be newer than both."""
    root = write_data_set(tmp_path, shards=1)
    read = LocalStore.read

    def touching(self: LocalStore, name: str, offset: int, length: int) -> bytes:
        os.utime(root / "00000.tar")
        return read(self, name, offset, length)

    age(root)
    monkeypatch.setattr(LocalStore, "read", touching)
    with pytest.raises(InputError, match=r"00000\.tar: changed while it was indexed; leave the shards alone"):
        build_index(root, workers=1)
    assert contents(root) == {}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_damaged_shards_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str) -> None:
    """A night's indexing would stop at the first of five bad shards, five nights in a row."""
    root = write_data_set(tmp_path, shards=6)
    whole = {n: (root / f"0000{n}.tar").read_bytes() for n in (1, 4)}
    (root / "00001.tar").write_bytes(whole[1][:5000])
    (root / "00004.tar").write_bytes(bytes([whole[4][0] ^ 1]) + whole[4][1:])
    assert main([str(root), "--workers", workers]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second, last = err.splitlines()
    assert re.fullmatch(rf"pineco: {root}/00001\.tar: at byte \d+: .* cut.*", first)
    assert re.fullmatch(rf"pineco: {root}/00004\.tar: at byte 0: bad header checksum.*", second)
    assert last == "pineco: 2 of 6 shards are not as they should be"
    assert contents(root).keys() == {f"0000{n}.tar.index" for n in (0, 2, 3, 5)}
    for n, data in whole.items():
        (root / f"0000{n}.tar").write_bytes(data)
    assert main([str(root)]) == 0
    assert len(open_index(LocalStore(root))) == 120


def test_an_old_manifest_does_not_outlive_its_shards(tmp_path: Path) -> None:
    """After a failed build, training would start with the places of the old shards."""
    root = write_data_set(tmp_path)
    build_index(root, workers=1)
    data = (root / "00001.tar").read_bytes()
    (root / "00001.tar").write_bytes(b"\xff" * len(data))
    with pytest.raises(DamagedShardsError, match=r"1 of 3 shards are not as they should be, the first: .*00001\.tar"):
        build_index(root, workers=1)
    assert (root / MANIFEST).read_bytes() == UNFINISHED
    with pytest.raises(InputError, match="indexing has begun and not ended"):
        open_index(LocalStore(root))
    (root / "00001.tar").write_bytes(data)
    build_index(root, workers=1)
    assert len(open_index(LocalStore(root))) == 60


@pytest.mark.parametrize("content", [b"", b'{"images": 3}', b'{"format": "webdataset"}'])
def test_a_manifest_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A file of the user's would be overwritten."""
    root = write_data_set(tmp_path / "data", shards=1)
    (root / MANIFEST).write_bytes(content)
    with pytest.raises(
        InputError, match=r"manifest\.json: is no manifest of an index and would be overwritten; move it"
    ):
        build_index(root, workers=1)
    assert contents(root) == {MANIFEST: content}
    build_index(root, tmp_path / "out", workers=1)
    assert len(open_index(LocalStore(root), str(tmp_path / "out"))) == 20


def test_parts_make_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str], shards_read: list[str]) -> None:
    """An array of jobs would leave shards out, or index them twice."""
    root = write_data_set(tmp_path / "data", shards=7)
    age(root)
    build_index(root, tmp_path / "whole", workers=1)
    shards_read.clear()
    for k in (3, 1, 2):
        assert main([str(root), "--part", f"{k}/3", "--workers", "1"]) == 0
        assert f"part {k}/3 indexed: {2 + (k == 1)} shards" in capsys.readouterr().out
        assert MANIFEST not in contents(root)
    assert sorted(shards_read) == [f"0000{n}.tar" for n in range(7)]
    shards_read.clear()
    assert main([str(root), "--part", "9/9"]) == 0
    assert main([str(root)]) == 0
    assert shards_read == []
    assert contents(root) == contents(tmp_path / "whole")


def test_a_part_that_scans_takes_the_manifest_back(tmp_path: Path) -> None:
    """Between an array of jobs and the call that collects, the manifest would be that of the old shards."""
    root = write_data_set(tmp_path, shards=4)
    age(root)
    build_index(root, workers=1)
    build_index(root, workers=1, part=(1, 2))
    assert (root / MANIFEST).read_bytes() != UNFINISHED, "nothing was scanned"
    os.utime(root / "00000.tar")
    build_index(root, workers=1, part=(1, 2))
    assert (root / MANIFEST).read_bytes() == UNFINISHED


def test_sidecars_that_a_writer_of_shards_leaves(tmp_path: Path, shards_read: list[str]) -> None:
    """Whoever writes shards and their sidecars would see every shard read again for the manifest."""
    root = write_data_set(tmp_path)
    age(root)
    for path in sorted(root.glob("*.tar")):
        entry = write_sidecar(LocalStore(root), path.name, scan_file(path), path.stat().st_size, "")
        assert (entry.name, entry.samples) == (path.name, 20)
    shards_read.clear()
    build_index(root, workers=1)
    assert shards_read == []
    assert len(open_index(LocalStore(root))) == 60


def test_progress_in_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A log would say nothing for hours, or fill a disk."""
    root = write_data_set(tmp_path)
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    build_index(root, workers=1, show=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, "three reports, six seconds apart"
    assert re.fullmatch(r"indexing 1 of 3 shards, 0\.0 of 0\.0 GB, 0 MB/s, 0 min left", lines[0])


def test_ctrl_c_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shards_read: list[str]
) -> None:
    """A user would see a page of Python, and not know that they may go on."""
    root, write = write_data_set(tmp_path), LocalStore.write
    age(root)

    def interrupted(self: LocalStore, name: str, data: bytes | Path) -> None:
        if name.startswith("00001"):
            raise KeyboardInterrupt
        write(self, name, data)

    monkeypatch.setattr(LocalStore, "write", interrupted)
    assert main([str(root)]) == 130
    assert capsys.readouterr().err == "pineco: interrupted; the same command continues where it stopped\n"
    monkeypatch.setattr(LocalStore, "write", write)
    shards_read.clear()
    assert main([str(root)]) == 0
    assert shards_read == ["00001.tar", "00002.tar"]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard would be read and none of its index kept."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    root = write_data_set(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"00000\.tar\.index: No space left on device; check"):
        build_index(root, workers=1)
    assert contents(root) == {}


def test_a_whole_shard_is_whole() -> None:
    """The other tests would have tested nothing."""
    assert tar_bytes(pairs(50)) == whole_shard(50)
