"""The files of a toy world: the layouts of img2dataset, CLIP_benchmark and NIGHTS, and the dense labels."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pineco.data_pipeline.toy_world import files
from pineco.data_pipeline.toy_world.samples import ZERO_SHOT_SETS, Sample
from pineco.data_pipeline.toy_world.scene import SHAPES
from pineco.data_pipeline.toy_world.settings import TINY, ToyWorldSettings

SIDE = TINY.image_size


def samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, extension -> content) in the order of the archive."""
    grouped: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, extension = member.name.split(".", 1)
            stream = archive.extractfile(member)
            assert stream is not None
            grouped.setdefault(key, {})[extension] = stream.read()
    yield from grouped.items()


def test_pairs_have_the_layout_of_img2dataset(toy_world: Path) -> None:
    """If it fails, the loader of real image-text data does not read the toy pairs."""
    shards = sorted((toy_world / "pairs/train").glob("*.tar"))
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    found = [item for shard in shards for item in samples(shard)]
    assert [key for key, _ in found] == [f"{shard:05d}{i:04d}" for shard in range(2) for i in range(32)]
    for key, sample in found:
        record = json.loads(sample["json"])
        assert set(sample) == {"jpg", "json", "txt"}
        assert (record["key"], record["caption"]) == (key, sample["txt"].decode())
        assert record["captions"][0] == record["caption"]
        assert len(set(record["captions"])) == 5
        assert simplejpeg.decode_jpeg(sample["jpg"]).shape == (record["height"], record["width"], 3)


def test_tar_headers_are_fixed(toy_world: Path) -> None:
    """If it fails, archives differ by the user or the hour that made them."""
    with tarfile.open(toy_world / "pairs/val/00000.tar") as archive:
        heads = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in archive}
    assert heads == {(0, 0, 0, "", "", 0o444)}


@pytest.mark.parametrize("name", ZERO_SHOT_SETS)
def test_zero_shot_sets_have_the_layout_of_clip_benchmark(toy_world: Path, name: str) -> None:
    """If it fails, evaluators of published sets do not read the toy sets, or their first N are unbalanced."""
    folder = toy_world / "wds" / name
    classnames = (folder / "classnames.txt").read_text().splitlines()
    templates = (folder / "zeroshot_classification_templates.txt").read_text().splitlines()
    shards = [folder / f"test/{i}.tar" for i in range(int((folder / "test/nshards.txt").read_text()))]
    found = [item for shard in shards for item in samples(shard)]
    assert [key for key, _ in found] == [f"s{i:07d}" for i in range(TINY.test_images)]
    assert [int(sample["cls"]) for _, sample in found] == [i % len(classnames) for i in range(TINY.test_images)]
    assert all("{c}" in template for template in templates)
    assert len(set(classnames)) == len(classnames)


def test_retrieval_set_has_five_captions_that_tell_images_apart(toy_world: Path) -> None:
    """If it fails, retrieval scores are limited by captions that fit many images."""
    folder = toy_world / "wds/toy_retrieval"
    assert (folder / "dataset_type.txt").read_text() == "retrieval"
    texts = [sample["txt"].decode().splitlines() for _, sample in samples(folder / "test/0.tar")]
    assert {len(set(lines)) for lines in texts} == {5}
    everything = [text for lines in texts for text in lines]
    assert len(set(everything)) == len(everything)


def test_wds_shards_are_cut_at_five_hundred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, nshards.txt and the archives disagree for sets of more than 500 images."""

    def stub(settings: ToyWorldSettings, split: str, index: int) -> Sample:
        return f"s{index:07d}", {"jpg": b"", "ref.jpg": b"", "left.jpg": b"", "right.jpg": b"", "csv": b""}

    for name in ("pair", "dense", "zero_shot", "retrieval", "triplet"):
        monkeypatch.setattr(files, name, stub)
    monkeypatch.setattr(files, "ZERO_SHOT_SETS", {"toy_shapes": ZERO_SHOT_SETS["toy_shapes"]})
    files.write_files(tmp_path, replace(TINY, test_images=960), workers=1)
    folder = tmp_path / "wds/toy_shapes/test"
    assert (folder / "nshards.txt").read_text() == "2"
    assert [len(list(samples(folder / f"{i}.tar"))) for i in range(2)] == [500, 460]
    assert not (folder / "2.tar").exists()


def test_webdataset_reads_the_pairs(toy_world: Path) -> None:
    """If it fails, keys or extensions are not grouped as webdataset groups them."""
    import webdataset

    dataset = webdataset.WebDataset(str(toy_world / "dense/train/00000.tar"), shardshuffle=False)
    first = next(iter(dataset))
    assert first["__key__"] == "000000000"
    assert {"jpg", "json", "seg.png", "depth.png"} <= set(first)


def test_triplets_have_the_layout_of_nights(toy_world: Path) -> None:
    """If it fails, the reader of NIGHTS does not read the toy triplets."""
    with (toy_world / "triplets/data.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,prompt,is_imagenet,split"
    assert list(rows[0]) == columns.split(",")
    assert [int(row["id"]) for row in rows] == list(range(TINY.triplets))
    splits = [row["split"] for row in rows]
    assert [splits.count(name) for name in ("train", "val", "test")] == [16, 2, 2]
    for row in rows:
        share, votes = float(row["right_vote"]), int(row["votes"])
        assert 6 <= votes <= 10
        assert float(row["left_vote"]) + share == pytest.approx(1)
        assert share * votes == pytest.approx(round(share * votes))
        for side in ("ref", "left", "right"):
            image = simplejpeg.decode_jpeg((toy_world / "triplets" / row[f"{side}_path"]).read_bytes())
            assert image.shape == (SIDE, SIDE, 3)


def test_dense_files_hold_what_was_rendered(toy_world: Path) -> None:
    """If it fails, PNG encoding changes labels (a palette, eight bits of depth)."""
    names = (toy_world / "dense/classes.txt").read_text().splitlines()
    assert names == ["background", *SHAPES]
    for _, sample in samples(toy_world / "dense/test/00000.tar"):
        mask, depth = (Image.open(io.BytesIO(sample[name])) for name in ("seg.png", "depth.png"))
        classes = np.unique(np.asarray(mask))
        counts = json.loads(sample["json"])
        assert (mask.mode, depth.mode) == ("L", "I;16")
        assert {names[value] for value in classes if value} == {n for n, k in counts["counts"].items() if k}
        assert sum(counts["counts"].values()) == counts["total"]
        assert 500 < np.asarray(depth).min() < np.asarray(depth).max() <= 5000
