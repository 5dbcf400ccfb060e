"""NIGHTS' table and images become shards: each image once, each row with its own images and votes."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import MISSING, OUTSIDE
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.sources.judgements import LOST_IMAGE
from pineco.data_pipeline.prepare.sources.nights import BAD_GROUP, BAD_PATH, BAD_VOTES, RAGGED_ROW, open_nights
from pineco.data_pipeline.triplets.source import open_triplets
from pineco.data_pipeline.triplets.table import read_nights
from tests.support.prepared import Prepare, prepared, rejections, samples, tree
from tests.support.shards import solid
from tests.support.triplet_sets import NIGHTS_HEADER, images, nights_row, sides, table, write_nights


def test_rows_keep_their_images_and_votes(tmp_path: Path, prepare: Prepare) -> None:
    """The model would learn judgements about other images, or with left and right exchanged."""
    rows = [nights_row(7, 3, 1, 5), nights_row(9, 5, 3, 0, left_vote=1, right_vote=0, votes=6.0, split="test")]
    prepare("nights", write_nights(tmp_path / "src", rows), tmp_path / "dst", "--shard-size", 2)
    first, second = table(tmp_path / "dst")
    columns = ["id", "split", "left_vote", "right_vote", "votes", "ref", "left", "right", "is_imagenet", "prompt"]
    assert list(first) == columns
    assert list(first.values()) == ["7", "train", "0.25", "0.75", "8", "0", "1", "2", "True", "a, b"]
    assert [first["split"], second["split"], second["votes"], second["left_vote"]] == ["train", "test", "6", "1.0"]
    assert sides(tmp_path / "dst", first) == [solid(3), solid(1), solid(5)]
    assert sides(tmp_path / "dst", second) == [solid(5), solid(3), solid(0)]


def test_rows_keep_their_prompts(tmp_path: Path, prepare: Prepare) -> None:
    """The text tower would learn the prompts of other images, or of none; an empty one is no reason to lose a row."""
    rows = [nights_row(i, i, i + 1, i + 2, prompt=p) for i, p in enumerate(("a, b", "grüner Käfer", "", "7"))]
    source = write_nights(tmp_path / "src", rows)
    (source / "distort" / "1.png").unlink()  # takes the first row with it
    assert prepare("nights", source, tmp_path / "dst").code == 0
    kept = [(row["id"], row["prompt"]) for row in table(tmp_path / "dst")]
    assert kept == [("1", "grüner Käfer"), ("2", ""), ("3", "7")]


def test_without_prompts_the_table_is_what_it_was(tmp_path: Path, prepare: Prepare) -> None:
    """Prepared sets that have no prompts would change, and their users have to make them again."""
    header = NIGHTS_HEADER.replace("prompt,", "")
    rows = [nights_row(i, i, i + 1, i + 2, prompt="-").replace(",-,", ",") for i in range(2)]
    assert prepare("nights", write_nights(tmp_path / "src", rows, header), tmp_path / "dst").code == 0
    assert (tmp_path / "dst" / "triplets.csv").read_text() == (
        "id,split,left_vote,right_vote,votes,ref,left,right,is_imagenet\n"
        "0,train,0.25,0.75,8,0,1,2,True\n1,train,0.25,0.75,8,1,2,3,True\n"
    )


def test_a_prepared_set_gets_its_prompts_without_new_shards(tmp_path: Path, prepare: Prepare) -> None:
    """Who prepared NIGHTS before its prompts were kept would have to write 58 GB again; the message says how."""
    source = write_nights(tmp_path / "src", [nights_row(i, i, i + 1, i + 2, prompt="wasp") for i in range(3)])
    prepare("nights", source, tmp_path / "dst")
    whole = tree(tmp_path / "dst")
    shard = (tmp_path / "dst" / "00000.tar").stat().st_mtime_ns
    (tmp_path / "dst" / "triplets.csv").unlink()
    assert prepare("nights", source, tmp_path / "dst").code == 0
    assert tree(tmp_path / "dst") == whole
    assert (tmp_path / "dst" / "00000.tar").stat().st_mtime_ns == shard


def test_an_image_is_stored_once_where_it_is_first_needed(tmp_path: Path, prepare: Prepare) -> None:
    """One ranged read would not fetch a triplet; 58 GB would become 100 where folders hold copies."""
    rows = [nights_row(0, 4, 2, 9), nights_row(1, 2, 9, 4), nights_row(2, 1, 4, 0)]
    prepare("nights", write_nights(tmp_path / "src", rows), tmp_path / "dst", "--shard-size", 2)
    assert images(tmp_path / "dst") == [solid(c) for c in (4, 2, 9, 1, 0)]
    assert [key for key, _ in samples(tmp_path / "dst")] == [
        "000000000", "000000001", "000010000", "000010001", "000020000"
    ]  # fmt: skip


def test_a_bad_image_takes_its_triplets_with_it(tmp_path: Path, prepare: Prepare) -> None:
    """Sample numbers would shift, so that rows name other images; or a row would name none."""
    rows = [nights_row(0, 0, 1, 2), nights_row(1, 3, 4, 5), nights_row(2, 6, 7, 8), nights_row(3, 3, 6, 11)]
    source = write_nights(tmp_path / "src", rows)
    (source / "distort" / "4.png").write_bytes(solid(4)[:40])
    (source / "distort" / "11.png").unlink()
    assert prepare("nights", source, tmp_path / "dst", "--shard-size", 4).code == 0
    assert [row["id"] for row in table(tmp_path / "dst")] == ["0", "2"]
    assert sides(tmp_path / "dst", table(tmp_path / "dst")[1]) == [solid(6), solid(7), solid(8)]
    assert rejections(tmp_path / "dst") == {
        "distort/4.png": "image does not decode", "distort/11.png": MISSING, "triplet 1": LOST_IMAGE,
        "triplet 3": LOST_IMAGE,
    }  # fmt: skip


BAD_ROWS = {
    "votes that are no shares": (nights_row(1, 0, 1, 2, left_vote=3, right_vote=5), BAD_VOTES),
    "a vote that is no number": (nights_row(1, 0, 1, 2, right_vote="x"), BAD_VOTES),
    "NaN": (nights_row(1, 0, 1, 2, right_vote="nan"), BAD_VOTES),
    "infinitely many votes": (nights_row(1, 0, 1, 2, votes="inf"), BAD_VOTES),
    "more votes than there are people": (nights_row(1, 0, 1, 2, votes="1e300"), BAD_VOTES),
    "half a vote": (nights_row(1, 0, 1, 2, votes=6.5), BAD_VOTES),
    "a cut row": ("1,0,1,8,ref/0.png", RAGGED_ROW),
    "a row that is too long": (nights_row(1, 0, 1, 2) + ",x", RAGGED_ROW),
    "neither half": (nights_row(1, 0, 1, 2, is_imagenet="maybe"), BAD_GROUP),
    "an absolute path": (nights_row(1, 0, 1, 2, ref_path="/ref/0.png"), BAD_PATH),
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_left_out_and_named(tmp_path: Path, prepare: Prepare, row: str, reason: str) -> None:
    """A judgement that nobody gave would be trained on."""
    source = write_nights(tmp_path / "src", [nights_row(0, 0, 1, 2), row])
    assert prepare("nights", source, tmp_path / "dst").code == 0
    assert rejections(tmp_path / "dst") == {"data.csv line 3": reason}
    assert [row["id"] for row in table(tmp_path / "dst")] == ["0"]


def test_a_row_that_ends_before_its_prompt_is_left_out_and_named(tmp_path: Path, prepare: Prepare) -> None:
    """The end of a table that was cut while it was copied would go for a row without a prompt."""
    header = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,prompt"
    row = "0,0.25,0.75,8,ref/0.png,distort/1.png,distort/2.png,train"
    source = write_nights(tmp_path / "src", [f"{row},wasp", row], header)
    assert prepare("nights", source, tmp_path / "dst").code == 0
    assert rejections(tmp_path / "dst") == {"data.csv line 3": RAGGED_ROW}
    assert [row["prompt"] for row in table(tmp_path / "dst")] == ["wasp"]


@pytest.mark.parametrize("path", ["../secret.png", "{tmp}/secret.png", ""])
def test_no_path_leaves_the_source(tmp_path: Path, prepare: Prepare, path: str) -> None:
    """S1: a downloaded table would publish files of this machine."""
    (tmp_path / "secret.png").write_bytes(solid(200))
    rows = [nights_row(0, 0, 1, 2), nights_row(1, 3, 4, 5, ref_path=path.format(tmp=tmp_path))]
    assert prepare("nights", write_nights(tmp_path / "src", rows), tmp_path / "dst").code == 0
    assert solid(200) not in images(tmp_path / "dst")
    assert rejections(tmp_path / "dst") == {"data.csv line 3": BAD_PATH}


def test_no_link_leaves_the_source(tmp_path: Path, prepare: Prepare) -> None:
    """S1: a downloaded archive would publish files of this machine."""
    (tmp_path / "secret.png").write_bytes(solid(200))
    source = write_nights(tmp_path / "src", [nights_row(0, 0, 1, 2), nights_row(1, 3, 4, 5, ref_path="ref/link.png")])
    (source / "ref" / "link.png").symlink_to(tmp_path / "secret.png")
    assert prepare("nights", source, tmp_path / "dst").code == 0
    assert solid(200) not in images(tmp_path / "dst")
    assert rejections(tmp_path / "dst") == {"ref/link.png": OUTSIDE, "triplet 1": LOST_IMAGE}


REFUSED = {
    "no columns": ("id,split", [], "lacks the columns"),
    "no rows": (NIGHTS_HEADER, [], "no triplet can be used"),
    "only bad rows": (NIGHTS_HEADER, ["1,0"], RAGGED_ROW),
    "no image": (NIGHTS_HEADER, [nights_row(0, 50, 51, 52)], MISSING),
    "no triplet with all images": (NIGHTS_HEADER, [nights_row(0, 0, 1, 52)], "no triplet is left"),
}


@pytest.mark.parametrize(("header", "rows", "words"), REFUSED.values(), ids=REFUSED)
def test_a_source_without_triplets_is_refused(
    tmp_path: Path, prepare: Prepare, header: str, rows: list[str], words: str
) -> None:
    """An empty table would pass for a prepared data set."""
    done = prepare("nights", write_nights(tmp_path / "src", rows, header), tmp_path / "dst")
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


def test_a_folder_without_the_table_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """The user would not learn what is expected."""
    source = write_nights(tmp_path / "src", [])
    (source / "data.csv").unlink()
    done = prepare("nights", source, tmp_path / "dst")
    assert (done.code, "NIGHTS' layout" in done.err) == (2, True)


def test_materials_are_stored_once(tmp_path: Path, prepare: Prepare, real_data: Path) -> None:
    """Real judgements would be lost, or the copies of the 100 images stored twice."""
    source = real_data / "triplets" / "materials"
    assert prepare("nights", source, tmp_path / "dst").code == 0
    assert prepared(tmp_path / "dst")["samples"] == 100
    found = table(tmp_path / "dst")
    assert Counter(row["split"] for row in found) == {"train": 8000, "val": 800, "test": 2738}
    with (source / "data.csv").open(newline="") as file:
        wanted = list(csv.DictReader(file))
    every = images(tmp_path / "dst")
    for row, was in zip(found[::97], wanted[::97], strict=True):
        assert (float(row["right_vote"]), row["prompt"]) == (float(was["right_vote"]), was["prompt"])
        for side in ("ref", "left", "right"):
            assert every[int(row[side])] == (source / was[f"{side}_path"]).read_bytes()


def test_training_reads_the_same_from_shards_and_files(tmp_path: Path, prepare: Prepare) -> None:
    """A run on prepared triplets would not be the run on the downloaded ones."""
    rows = [nights_row(i, i, i + 1, i + 2, right_vote=i % 2, left_vote=1 - i % 2) for i in range(9)]
    source = write_nights(tmp_path / "src", rows)
    prepare("nights", source, tmp_path / "dst", "--shard-size", 4)
    read = []
    for root in (source, tmp_path / "dst"):
        found, reader = open_triplets(str(root))
        every = reader.read(found.images.ravel())
        images = [next(iter(dict(every[row]).values())) for row in found.images.ravel().tolist()]  # type: ignore[arg-type]
        read.append((found.split_names, found.split.tolist(), found.right_vote.tolist(), found.votes.tolist(), images))
    assert read[0] == read[1]


ODD_ROWS = {  # and whether they can be used
    "usual": (nights_row(1, 0, 1, 2), True),
    "whole number with a point": (nights_row(1, 0, 1, 2, votes="6.0"), True),
    "no votes": (nights_row(1, 0, 1, 2, votes=0), True),
    "six decimals": (nights_row(1, 0, 1, 2, left_vote="0.333333", right_vote="0.666666"), True),
    "blank line before": ("\n\n" + nights_row(1, 0, 1, 2), True),
    "blank half": (nights_row(1, 0, 1, 2, is_imagenet=""), False),
    "half in lower case": (nights_row(1, 0, 1, 2, is_imagenet="false"), True),
    "no prompt": (nights_row(1, 0, 1, 2, prompt=""), True),
    "prompt of two lines": (nights_row(1, 0, 1, 2, prompt="a,\nb"), True),
    "another split": (nights_row(1, 0, 1, 2, split=" train"), True),
    "image that is not there": (nights_row(1, 0, 1, 2, ref_path="r" * 300), True),  # of the table; the file is missing
    "blank within": (" ", False),
    "cut": (nights_row(1, 0, 1, 2).rpartition(",")[0], False),
    "too long": (nights_row(1, 0, 1, 2) + ",", False),
    "votes beyond an integer": (nights_row(1, 0, 1, 2, votes="99999999999999999999"), False),
    "votes of 1e300": (nights_row(1, 0, 1, 2, votes="1e300"), False),
    "negative votes": (nights_row(1, 0, 1, 2, votes=-1), False),
    "half a vote": (nights_row(1, 0, 1, 2, votes=6.5), False),
    "NaN votes": (nights_row(1, 0, 1, 2, votes="nan"), False),
    "left is no number": (nights_row(1, 0, 1, 2, left_vote="x"), False),
    "left is NaN": (nights_row(1, 0, 1, 2, left_vote="nan"), False),
    "left is empty": (nights_row(1, 0, 1, 2, left_vote=""), False),
    "no sum of 1": (nights_row(1, 0, 1, 2, left_vote=0.26), False),
    "outside": (nights_row(1, 0, 1, 2, left_vote=-1, right_vote=2), False),
    "absolute path": (nights_row(1, 0, 1, 2, left_path="/tmp/0.png"), False),
    "parent": (nights_row(1, 0, 1, 2, left_path="distort/../ref/0.png"), False),
    "empty path": (nights_row(1, 0, 1, 2, right_path=""), False),
    "path of two lines": (nights_row(1, 0, 1, 2, right_path="a,\nb.png"), False),
    "path with NUL": (nights_row(1, 0, 1, 2, right_path="a\0.png"), False),
}


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
@pytest.mark.parametrize(("row", "usable"), ODD_ROWS.values(), ids=ODD_ROWS)
def test_training_and_preparing_take_the_same_rows(tmp_path: Path, row: str, usable: bool, mark: str) -> None:
    """A table would train as downloaded and lose rows when prepared; or be prepared into what training refuses."""
    source = write_nights(tmp_path, [nights_row(0, 3, 4, 5), row], mark + NIGHTS_HEADER)
    prepared_rows = open_nights(source, ImageRules(), 4, 1)
    assert (len(prepared_rows.rows), len(prepared_rows.rejected)) == (1 + usable, 1 - usable)
    if not usable:
        line = prepared_rows.rejected[0].path.removeprefix("data.csv ")
        with pytest.raises(InputError, match=rf"data\.csv: {line}: "):
            read_nights(source)
        return
    table = read_nights(source).table
    assert table.right_vote.tolist() == prepared_rows.rows.right_vote.astype("float32").tolist()
    assert table.votes.tolist() == prepared_rows.rows.votes.tolist()
    assert [table.split_names[n] for n in table.split] == [
        prepared_rows.rows.split_names[n] for n in prepared_rows.rows.split
    ]


@pytest.mark.parametrize(
    ("header", "words"),
    [(f"{NIGHTS_HEADER},votes", "more than one column votes"), ("", "lacks the columns split, left_vote")],
)
def test_training_and_preparing_refuse_the_same_headers(tmp_path: Path, header: str, words: str) -> None:
    """A table would be prepared from one of two columns of votes, which training refuses to guess."""
    source = write_nights(tmp_path, [], header)
    for read in (lambda: open_nights(source, ImageRules(), 4, 1), lambda: read_nights(source)):
        with pytest.raises(InputError, match=rf"data\.csv: .*{words}"):
            read()
