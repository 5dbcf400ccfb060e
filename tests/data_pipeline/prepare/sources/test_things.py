"""THINGS' odd-one-out triplets: the pair that people kept is reference and winner, on sides that a coin deals."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pineco.data_pipeline.prepare.outcome import Rejected
from pineco.data_pipeline.prepare.sources.judgements import write_table
from pineco.data_pipeline.prepare.sources.things import deal_sides, read_triplets
from tests.support.prepared import Prepare, prepared
from tests.support.shards import solid
from tests.support.triplet_sets import sides, table, write_things

TRIPLETS = "0 1 2\n3 4 5\n5 0 3\n"


def random_triplets(count: int, images: int = 1854) -> np.ndarray:
    rows = np.random.default_rng(0).integers(0, images, (count, 3))
    rows[:, 1] = (rows[:, 0] + 1 + rows[:, 1] % (images // 2 - 1)) % images
    rows[:, 2] = (rows[:, 0] + images // 2 + rows[:, 2] % (images // 2 - 1)) % images
    return rows.astype(np.int32)


def test_the_odd_one_never_wins(tmp_path: Path, prepare: Prepare) -> None:
    """The model would learn that what people set apart is alike."""
    assert prepare("things", write_things(tmp_path / "src", TRIPLETS, val="4 2 1\n"), tmp_path / "dst").code == 0
    rows = table(tmp_path / "dst")
    assert [(row["id"], row["split"], row["votes"]) for row in rows] == [
        ("0", "train", "1"), ("1", "train", "1"), ("2", "train", "1"), ("3", "val", "1")
    ]  # fmt: skip
    for row, (first, second, odd) in zip(rows, [(0, 1, 2), (3, 4, 5), (5, 0, 3), (4, 2, 1)], strict=True):
        reference, left, right = sides(tmp_path / "dst", row)
        winner, loser = (right, left) if row["right_vote"] == "1.0" else (left, right)
        assert loser == solid(odd)
        assert {reference, winner} == {solid(first), solid(second)}
        assert {row["left_vote"], row["right_vote"]} == {"0.0", "1.0"}


def test_sides_are_balanced_and_independent() -> None:
    """A model could win by always saying left, or by the order in which the pair was written."""
    rows = random_triplets(40_000)
    dealt = deal_sides(rows, ("train",), np.zeros(len(rows), np.int32))
    first = dealt.images[:, 0] == rows[:, 0]
    right = dealt.right_vote == 1
    for a in (first, ~first):
        for b in (right, ~right):
            assert abs((a & b).mean() - 0.25) < 0.01


def test_the_coin_of_a_row_is_for_ever() -> None:
    """A data set prepared again would have other sides, and figures could not be compared."""
    rows = np.tile(np.array([[0, 1, 2]], np.int32), (12, 1))
    dealt = deal_sides(rows, ("train",), np.zeros(12, np.int32))
    assert "".join(map(str, dealt.images[:, 0])) == "010000011110"
    assert "".join(str(int(vote)) for vote in dealt.right_vote) == "100100100110"


@pytest.mark.parametrize(
    "text", [TRIPLETS, "0.0e+00 1 2.0\n3 4 5\n5 0 3", "0,1,2\r\n3,4,5\r\n5,0,3\r\n", "0\t1\t2\n\n3 4 5\n5 0 3"]
)
def test_every_way_to_write_numbers_is_read(tmp_path: Path, text: str) -> None:
    """Files saved by numpy, MATLAB or R would be refused."""
    (tmp_path / "x.txt").write_bytes(text.encode())
    assert read_triplets(tmp_path / "x.txt").tolist() == [[0, 1, 2], [3, 4, 5], [5, 0, 3]]


BAD = {
    "empty": "",
    "two columns": "0 1\n2 3\n",
    "a short line": "0 1 2\n3 4\n",
    "words": "0 1 2\nimage1 image2 image3\n",
    "negative": "0 1 2\n3 -1 2\n",
    "fractions": "0 1 2\n3 0.5 2\n",
    "the same image twice": "0 1 2\n3 4 3\n",
    "NaN": "0 1 2\nnan 4 3\n",
    "not UTF-8": "0 1 2\n\udcff 4 3\n",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_file_that_holds_no_triplets_is_refused(tmp_path: Path, prepare: Prepare, text: str) -> None:
    """Judgements would be about wrong images; a file with a header or one-based names would pass."""
    source = write_things(tmp_path / "src", "")
    (source / "trainset.txt").write_bytes(text.encode(errors="surrogateescape"))
    done = prepare("things", source, tmp_path / "dst")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "trainset.txt" in done.err
    assert "three different image numbers" in done.err


@pytest.mark.parametrize("count", [5, 7])
def test_another_number_of_images_is_refused(tmp_path: Path, prepare: Prepare, count: int) -> None:
    """THINGS has 26,107 images and the triplets are about 1,854: each number would mean another image."""
    done = prepare("things", write_things(tmp_path / "src", TRIPLETS, count=count), tmp_path / "dst")
    assert done.code == 2
    assert "--image-list" in done.err


def test_a_linked_folder_of_images_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """Leaving it out would number all images after it otherwise."""
    source = write_things(tmp_path / "src", TRIPLETS)
    (source / "images" / "b_concept").rename(tmp_path / "elsewhere")
    (source / "images" / "b_concept").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in prepare("things", source, tmp_path / "dst").err


def test_an_image_list_decides_the_order(tmp_path: Path, prepare: Prepare) -> None:
    """The order of the experiment is not always that of file names: labels would be about other images."""
    source = write_things(tmp_path / "src", "0 1 2\n", count=6)
    names = [f"images/{chr(ord('a') + i)}_concept/{i}.png" for i in (4, 3, 5, 0)]
    (source / "list.txt").write_text("\r\n".join(names))
    options = ("--image-list", "list.txt", "--triplets", "all=trainset.txt")
    assert prepare("things", source, tmp_path / "dst", *options).code == 0
    (row,) = table(tmp_path / "dst")
    assert row["split"] == "all"
    assert {*sides(tmp_path / "dst", row)} == {solid(4), solid(3), solid(5)}
    assert prepared(tmp_path / "dst")["options"]["image_list"] == "list.txt"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--triplets", "trainset.txt"), "SPLIT=FILE"),
        (("--triplets", "a=trainset.txt", "--triplets", "a=trainset.txt"), "SPLIT=FILE"),
        (("--triplets", "a=../trainset.txt"), "leads out of SRC"),
        (("--images", ".."), "no such folder"),
        (("--image-list", "/etc/passwd"), "leads out of SRC"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, prepare: Prepare, options: tuple[str, ...], words: str) -> None:
    """S1: a file of another folder would be read, or a mistake would be taken for a split."""
    done = prepare("things", write_things(tmp_path / "src", TRIPLETS), tmp_path / "dst", *options)
    assert (done.code, words in done.err) == (2, True)


def test_millions_of_rows_are_written_in_seconds(tmp_path: Path) -> None:
    """4.7 million triplets would take an hour, or memory for a Python object each."""
    rows = random_triplets(200_000)
    dealt = deal_sides(rows, ("train",), np.zeros(len(rows), np.int32))
    lost: list[Rejected] = []
    began = time.process_time()
    assert write_table(tmp_path / "t.csv", dealt, np.arange(1854) - 1, lost.append) == len(rows) - len(lost)
    assert time.process_time() - began < 5  # 0.5 s where this was written
    assert len(lost) == int((dealt.images == 0).any(axis=1).sum()) > 0
