"""img2dataset's output becomes shards: what can be used byte for byte, the rest counted, nothing beyond SRC touched."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pineco.data_pipeline.index import open_index
from pineco.data_pipeline.prepare.job import MAX_PARTS, sample_key
from pineco.data_pipeline.prepare.samples.images import EMPTY, FOREIGN, UNREADABLE
from pineco.data_pipeline.prepare.samples.texts import BAD_METADATA, EMPTY_CAPTION, NO_CAPTION, NO_UTF8
from pineco.data_pipeline.prepare.sources.raw_samples import DAMAGED_TAR, DUPLICATE
from pineco.data_pipeline.prepare.sources.yfcc15m import NO_IMAGE
from pineco.data_pipeline.reading.shard_set import open_shards
from pineco.data_pipeline.stores.store import open_store
from tests.support.commands import command
from tests.support.prepared import Prepare, pair_files, photo, prepared, rejections, samples, tree, write_pairs
from tests.support.shards import encode, tar_bytes, write_shard

main = command("data prepare")


def test_pairs_come_through_byte_for_byte(tmp_path: Path, prepare: Prepare) -> None:
    """Images would lose quality, captions would belong to other images, keys would come twice."""
    done = prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst")
    assert (done.code, done.err) == (0, "")
    found = samples(tmp_path / "dst")
    assert [key for key, _ in found] == [f"{s:05}{p:04}" for s, n in enumerate((3, 2, 4)) for p in range(n)]
    for number, (key, members) in enumerate(found):
        assert list(members) == ["jpg", "txt", "json"]
        assert members["jpg"] == photo(number)
        assert members["txt"] == f"photo {number}".encode()
        meta = json.loads(members["json"])
        assert meta["key"] == key
        assert meta["source_path"].endswith(f".tar/{number:09}")
        assert meta["url"] == "http://x/"
        assert not {"exif", "status"} & meta.keys()
    assert "9 samples in 3 shards" in done.out
    assert rejections(tmp_path / "dst") == {}


def test_the_result_is_indexed(tmp_path: Path, prepare: Prepare) -> None:
    """Training would scan every shard anew at each start."""
    prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst")
    assert (tmp_path / "dst" / "manifest.json").exists()
    assert len(open_index(open_store(tmp_path / "dst"))) == 9


def test_prepare_json_says_what_was_made(tmp_path: Path, prepare: Prepare) -> None:
    """Nobody could tell later what a folder of shards was made from, and with which options."""
    prepare("yfcc15m", write_pairs(tmp_path / "src", k1={"txt": b" "}), tmp_path / "dst", "--verify", "header")
    found = prepared(tmp_path / "dst")
    assert (found["kind"], found["complete"], found["samples"]) == ("yfcc15m", True, 8)
    assert found["options"] == {"verify": "header", "resize": None, "quality": 95}
    assert found["shards"][0] | {"bytes": 0} == {"name": "00000.tar", "samples": 2, "bytes": 0, "rejected": 1}
    assert found["bytes"] == sum(p.stat().st_size for p in (tmp_path / "dst").glob("*.tar"))
    assert found["rejected"] == {EMPTY_CAPTION: {"items": 1, "examples": ["00000.tar/000000001"]}}


GIF = encode(Image.new("P", (4, 4)), "GIF")
BAD = {
    "0-byte jpg": ({"jpg": b""}, EMPTY),
    "GIF renamed .jpg": ({"jpg": GIF}, FOREIGN),
    "cut jpg": ({"jpg": photo(1)[:-200]}, UNREADABLE),
    "no image": ({"jpg": None}, NO_IMAGE),
    "white space": ({"txt": b" \n"}, EMPTY_CAPTION),
    "not UTF-8": ({"txt": b"caf\xe9"}, NO_UTF8),
    "no caption": ({"txt": None, "json": b"{}"}, NO_CAPTION),
    "bad json": ({"json": b"{"}, BAD_METADATA),
    "json that is no object": ({"json": b"[]"}, BAD_METADATA),
    "deep json": ({"json": b"[" * 100_000}, BAD_METADATA),
    "empty list of captions": ({"json": b'{"captions": []}'}, BAD_METADATA),
    "captions that are no text": ({"json": b'{"captions": [1]}'}, BAD_METADATA),
}


@pytest.mark.parametrize(("change", "reason"), BAD.values(), ids=BAD)
def test_a_bad_sample_is_left_out_and_named(
    tmp_path: Path, prepare: Prepare, change: dict[str, bytes | None], reason: str
) -> None:
    """D6: one bad sample would stop training days later, or be trained on."""
    done = prepare("yfcc15m", write_pairs(tmp_path / "src", k4=change), tmp_path / "dst")
    assert done.code == 0
    assert rejections(tmp_path / "dst") == {"00001.tar/000000004": reason}
    assert f"rejected 1: {reason}, e.g. 00001.tar/000000004" in done.out
    assert len(samples(tmp_path / "dst")) == 8


def test_a_shard_of_which_nothing_is_left_is_not_written(tmp_path: Path, prepare: Prepare) -> None:
    """An empty shard would stop the reader; and a shard must not move because an earlier one went."""
    prepare("yfcc15m", write_pairs(tmp_path / "src", (1, 1), k0={"txt": b""}), tmp_path / "dst")
    assert [path.name for path in sorted((tmp_path / "dst").glob("*.tar"))] == ["00001.tar"]
    assert [key for key, _ in samples(tmp_path / "dst")] == ["000010000"]


def test_a_source_of_which_nothing_is_left_is_an_error(tmp_path: Path, prepare: Prepare) -> None:
    """An empty data set would pass for a prepared one."""
    done = prepare("yfcc15m", write_pairs(tmp_path / "src", (1,), k0={"txt": b""}), tmp_path / "dst")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert EMPTY_CAPTION in done.err
    assert prepared(tmp_path / "dst")["complete"] is False


def test_several_captions_are_kept(tmp_path: Path, prepare: Prepare) -> None:
    """`data.captions: any` would find one caption where five were written."""
    five = json.dumps({"captions": [f" caption {i} " for i in range(5)]}).encode()
    prepare("yfcc15m", write_pairs(tmp_path / "src", (1,), k0={"json": five, "txt": None}), tmp_path / "dst")
    ((_, members),) = samples(tmp_path / "dst")
    assert members["txt"] == b"caption 0"
    assert json.loads(members["json"])["captions"] == [f"caption {i}" for i in range(5)]


def test_png_and_webp_keep_their_format(tmp_path: Path, prepare: Prepare) -> None:
    """A PNG called .jpg would be decoded as JPEG by stricter readers."""
    image = Image.open(io.BytesIO(photo(0)))
    webp: dict[str, bytes | None] = {"jpg": None, "webp": encode(image, "WEBP")}
    source = write_pairs(tmp_path / "src", (2,), k0={"jpg": encode(image, "PNG")}, k1=webp)
    prepare("yfcc15m", source, tmp_path / "dst")
    assert [next(iter(members)) for _, members in samples(tmp_path / "dst")] == ["png", "webp"]


def test_duplicate_keys_are_left_out(tmp_path: Path, prepare: Prepare) -> None:
    """D6: a caption would meet the image of another sample of the same name."""
    files = pair_files([0]) + pair_files([1]) * 2 + pair_files([2]) + pair_files([0])
    write_shard(tmp_path / "src" / "00000.tar", files)
    prepare("yfcc15m", tmp_path / "src", tmp_path / "dst")
    assert rejections(tmp_path / "dst") == {"00000.tar/000000001": DUPLICATE, "00000.tar/000000000": DUPLICATE}
    assert [members["txt"] for _, members in samples(tmp_path / "dst")] == [b"photo 0", b"photo 2"]


def test_a_damaged_tar_gives_what_is_before_the_damage(tmp_path: Path, prepare: Prepare) -> None:
    """One cut shard of 1,500 would stop the preparation, or its loss would go unsaid."""
    source = write_pairs(tmp_path / "src")
    whole = (source / "00001.tar").read_bytes()
    (source / "00001.tar").write_bytes(whole[: whole.index(b"000000004.txt")])
    done = prepare("yfcc15m", source, tmp_path / "dst")
    assert done.code == 0
    assert rejections(tmp_path / "dst") == {"00001.tar": DAMAGED_TAR}
    assert DAMAGED_TAR in done.out
    assert len(samples(tmp_path / "dst")) == 8


def test_hostile_members_go_nowhere(tmp_path: Path, prepare: Prepare) -> None:
    """S2: a member would be written outside of DST, a link followed, a pickle copied to where it is loaded."""
    (tmp_path / "src").mkdir()
    with tarfile.open(tmp_path / "src" / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in [
            *[(f"../../evil/{name}", data) for name, data in pair_files([0])],
            *[(f"/etc/{name}", data) for name, data in pair_files([1])],
            ("000000002.pkl", b"cos\nsystem\n"),
            ("000000002.pyd", b"cos\nsystem\n"),
            *pair_files([2]),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("000000003.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    done = prepare("yfcc15m", tmp_path / "src", tmp_path / "dst")
    assert done.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"src", "dst"}
    found = [(key, list(members)) for key, members in samples(tmp_path / "dst")]
    assert found == [(f"{i:09}", ["jpg", "txt", "json"]) for i in range(2)]
    assert rejections(tmp_path / "dst") == {"00000.tar": DAMAGED_TAR}  # the link, and the sample that it may belong to


def test_files_format_is_read_too(tmp_path: Path, prepare: Prepare) -> None:
    """img2dataset's default output would be of no use; or it would give other shards than the same pairs in tars."""
    write_pairs(tmp_path / "tars")
    for shard, numbers in (("00000", range(3)), ("00001", range(3, 5)), ("00002", range(5, 9))):
        folder = tmp_path / "files" / shard
        folder.mkdir(parents=True)
        (tmp_path / "files" / f"{shard}.parquet").write_bytes(b"PAR1")
        for name, data in pair_files(numbers):
            (folder / name).write_bytes(data)
    prepare("yfcc15m", tmp_path / "tars", tmp_path / "a")
    prepare("yfcc15m", tmp_path / "files", tmp_path / "b")

    def without_source(folder: Path) -> list[tuple[str, bytes, bytes, dict[str, object]]]:
        return [(key, m["jpg"], m["txt"], json.loads(m["json"]) | {"source_path": ""}) for key, m in samples(folder)]

    assert without_source(tmp_path / "a") == without_source(tmp_path / "b")


def test_links_out_of_the_source_are_not_followed(tmp_path: Path, prepare: Prepare) -> None:
    """S2: a downloaded archive would publish files of the machine that it was unpacked on."""
    secret = tmp_path / "secret"
    write_shard(secret / "00000.tar", pair_files([7]))
    (secret / "caption.txt").write_text("secret")
    tars = write_pairs(tmp_path / "tars", (1,))
    (tars / "00001.tar").symlink_to(secret / "00000.tar")
    folders = tmp_path / "folders"
    (folders / "00000").mkdir(parents=True)
    for name, data in pair_files([0, 1]):
        (folders / "00000" / name).write_bytes(data)
    (folders / "00000" / "000000001.txt").unlink()
    (folders / "00000" / "000000001.txt").symlink_to(secret / "caption.txt")
    (folders / "00001").symlink_to(secret)
    for source in (tars, folders):
        done = prepare("yfcc15m", source, tmp_path / f"dst-{source.name}")
        assert done.code == 0
        assert len(rejections(tmp_path / f"dst-{source.name}")) == source.name.count("s") + (source is folders)
        assert b"secret" not in b"".join(tree(tmp_path / f"dst-{source.name}").values()).replace(b"/secret", b"")
        assert len(samples(tmp_path / f"dst-{source.name}")) == 1


def test_a_pipe_in_the_source_is_not_waited_for(tmp_path: Path, prepare: Prepare) -> None:
    """S2: the preparation would hang for ever."""
    folder = tmp_path / "src" / "00000"
    folder.mkdir(parents=True)
    for name, data in pair_files([0]):
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "000000001.jpg")
    (folder / "000000001.txt").write_text("a pipe")
    assert prepare("yfcc15m", tmp_path / "src", tmp_path / "dst").code == 0
    assert rejections(tmp_path / "dst") == {"00000/000000001": "no regular file"}


@pytest.mark.parametrize(
    ("name", "words"), [("yfcc15m.pkl", "img2dataset"), ("00000.parquet", "webdataset format"), ("a.jpg", "expected")]
)
def test_another_layout_is_refused(tmp_path: Path, prepare: Prepare, name: str, words: str) -> None:
    """S1: SLIP's pickled list would be loaded, or the user would not learn what is expected."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / name).write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    done = prepare("yfcc15m", tmp_path / "src", tmp_path / "dst")
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_more_samples_than_four_digits_have_keys_of_their_own() -> None:
    """Other people's shards hold more than 10,000 samples, and two samples would share a key."""
    assert len({sample_key(shard, place) for shard in (0, 1, 10, 1000) for place in range(0, 30_000, 7)}) == 4 * 4286
    assert len(sample_key(MAX_PARTS - 1, 9_999)) == 9


def test_an_archive_without_samples_is_no_error(tmp_path: Path, prepare: Prepare) -> None:
    """img2dataset leaves an empty shard where every download failed."""
    source = write_pairs(tmp_path / "src", (2,))
    (source / "00001.tar").write_bytes(tar_bytes([]))
    done = prepare("yfcc15m", source, tmp_path / "dst")
    assert done.code == 0
    assert [path.name for path in (tmp_path / "dst").glob("*.tar")] == ["00000.tar"]


def test_training_reads_what_was_prepared(tmp_path: Path, prepare: Prepare) -> None:
    """The reader of image-text pairs would refuse our own shards."""
    prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst")
    reader = open_shards(str(tmp_path / "dst")).reader(("jpg", "txt"))
    found = reader.read(np.arange(9))
    assert [(found[i]["jpg"], found[i]["txt"]) for i in range(9)] == [  # type: ignore[index]
        (photo(i), f"photo {i}".encode()) for i in range(9)
    ]


def test_real_pairs_come_through(tmp_path: Path, prepare: Prepare, real_data: Path) -> None:
    """Real photos would be rejected, or lose their captions."""
    done = prepare("yfcc15m", real_data / "pairs" / "flickr8k" / "dev", tmp_path / "dst")
    assert "1,000 samples in 2 shards" in done.out
    assert rejections(tmp_path / "dst") == {}
    was = samples(real_data / "pairs" / "flickr8k" / "dev")
    for (_, old), (_, new) in zip(was, samples(tmp_path / "dst"), strict=True):
        assert (old["jpg"], old["txt"].decode().strip()) == (new["jpg"], new["txt"].decode())
        assert json.loads(new["json"])["captions"] == [text.strip() for text in json.loads(old["json"])["captions"]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_ends_in_shards_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """D6: one flipped byte in 900 GB would end the preparation with a traceback, or hang it."""
    source = write_pairs(tmp_path / "src", (1, 2))
    raw = bytearray((source / "00001.tar").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    (source / "00001.tar").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    assert main(["yfcc15m", str(source), str(tmp_path / "dst"), "--workers", "1"]) == 0
    found = samples(tmp_path / "dst")
    assert (photo(0), b"photo 0") in [(members["jpg"], members["txt"]) for _, members in found]
    assert all({"jpg", "txt", "json"} == set(members) for _, members in found)
    capsys.readouterr()
    shutil.rmtree(tmp_path / "dst")
