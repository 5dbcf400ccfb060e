"""pineco data index --check: every damaged byte of a sample is found and named."""

from __future__ import annotations

import io
import random
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pineco.data_pipeline.index import DamagedShardsError, build_index, scan_file
from pineco.data_pipeline.index.check import check_index
from pineco.data_pipeline.index.manifest import MANIFEST, Manifest, decode_manifest, encode_manifest
from tests.support.commands import command
from tests.support.indexed import pairs, whole_shard, write_data_set
from tests.support.shards import tar_bytes, write_shard

main = command("data index")


def damage(path: Path, offset: int, bit: int = 0) -> None:
    """Flips one bit; a second call mends it."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def problems(root: Path, workers: int = 1) -> list[str]:
    try:
        check_index(root, workers=workers)
    except DamagedShardsError as error:
        return error.lines
    return []


def test_every_flip_in_a_payload_is_found(tmp_path: Path) -> None:
    """D2: training would go on with a picture or a caption that a disk or a network has changed."""
    path = tmp_path / "a.tar"
    path.write_bytes(data := whole_shard(50))
    build_index(tmp_path, workers=1)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
    draw = random.Random(3)
    for _ in range(1000):
        member = draw.choice(members)
        at, bit = member.offset_data + draw.randrange(member.size), draw.randrange(8)
        damage(path, at, bit)
        key, extension = member.name.split(".")
        named = f"{path}: sample '{key}', .{extension} at byte {member.offset_data}: changed since it was indexed; copy"
        (line,) = problems(tmp_path)
        assert line.startswith(named)
        damage(path, at, bit)
    assert problems(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_damage_of_every_kind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    """One bad shard would hide the others, or a user would not know which sample to look at."""
    root = write_data_set(tmp_path, shards=7)
    names = [f"0000{n}.tar" for n in range(7)]
    files = dict(pairs(20, seed=3))
    renamed = {f"k{name}": data for name, data in files.items()}
    build_index(root, workers=1)
    before = {path.name for path in root.iterdir()}
    for offset in scan_file(root / names[0]).members["offset"][[0, 7, 7], [0, 1, 2]].tolist():
        damage(root / names[0], offset)
    damage(root / names[1], 3)  # a name
    damage(root / names[2], 148, 4)  # a zero of the checksum field that turns into a space: the same number
    (root / names[3]).write_bytes(tar_bytes(renamed.items()))  # other keys, the same places
    other = tar_bytes(pairs(19, seed=4))
    (root / names[4]).write_bytes(other + bytes((root / names[4]).stat().st_size - len(other)))
    damage(root / "00005.tar.index", 300)
    (root / "00006.tar.index").unlink()
    assert main([str(root), "--check", "--workers", str(workers)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    expected = [
        r"00000\.tar: sample '000000', \.jpg at byte 512: changed since it was indexed \(3 members of this .*",
        r"00001\.tar: at byte 0: bad header checksum.*",
        r"00002\.tar: a header changed since it was indexed, the samples are whole; copy.*",
        r"00003\.tar: a header changed since it was indexed, the samples are whole; copy.*",
        r"00004\.tar: 19 samples of \.jpg \.json \.txt; 20 samples of \.jpg \.json \.txt when it was indexed",
        r"00005\.tar\.index: no index of a shard, or damaged .*; index again",
        r"00006\.tar\.index: not there; index again",
    ]
    lines = err.splitlines()
    assert len(lines) == len(expected) + 1
    for line, pattern in zip(lines, expected, strict=False):
        assert re.fullmatch(f"pineco: {re.escape(str(root))}/{pattern}", line)
    assert lines[-1] == "pineco: 7 of 7 shards are not as they should be"
    assert {path.name for path in root.iterdir()} == before - {"00006.tar.index"}, "something was written"


def test_a_sidecar_of_another_index_is_found(tmp_path: Path) -> None:
    """Sidecars and manifest of two builds would be taken for one index."""
    root = write_data_set(tmp_path)
    build_index(root, workers=1)
    manifest = decode_manifest((root / MANIFEST).read_bytes(), "")
    other = (replace(manifest.shards[0], ignored=1), *manifest.shards[1:])
    (root / MANIFEST).write_bytes(encode_manifest(Manifest(other)))
    assert problems(root) == [f"{root}/00000.tar.index: is not the sidecar that manifest.json speaks of; index again"]


def test_a_part_is_checked(tmp_path: Path) -> None:
    """A job of an array would check all shards, or none."""
    root = write_data_set(tmp_path, shards=4)
    build_index(root, workers=1)
    damage(root / "00001.tar", 700)
    check_index(root, workers=1, part=(1, 2))
    with pytest.raises(DamagedShardsError, match=r"1 of 2 .*00001\.tar"):
        check_index(root, workers=1, part=(2, 2))


def test_a_moved_member_is_named_by_its_sample(tmp_path: Path) -> None:
    """A shard that was written anew with the same size would pass."""
    write_shard(tmp_path / "a.tar", [("a/0.jpg", b"x" * 600), ("a/0.txt", b"y" * 100), ("a/1.jpg", b"z")])
    build_index(tmp_path, workers=1)
    size = (tmp_path / "a.tar").stat().st_size
    write_shard(tmp_path / "a.tar", [("a/0.jpg", b"x" * 600), ("a/0.txt", b"y" * 101), ("a/1.jpg", b"z")])
    assert (tmp_path / "a.tar").stat().st_size == size
    (line,) = problems(tmp_path)
    assert "sample 'a/0', .txt at byte 2048: changed since it was indexed; copy" in line
