"""open_clip's tables: every row meets its own image, whatever quotes and line ends do, and no path leaves SRC."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pineco.data_pipeline.prepare.confine import MISSING, OUTSIDE
from pineco.data_pipeline.prepare.samples.texts import EMPTY_CAPTION, NO_UTF8
from pineco.data_pipeline.prepare.sources.pairs_csv import SHORT_ROW
from tests.support.prepared import Prepare, photo, rejections, samples, write_table


def test_rows_become_pairs_in_shards_of_the_size_asked_for(tmp_path: Path, prepare: Prepare) -> None:
    """Captions would belong to other images, or rows at the border of two shards come twice or never."""
    table = write_table(tmp_path / "src", [f"images/{i}.jpg\tphoto {i}" for i in range(5)])
    assert prepare("csv", table, tmp_path / "dst", "--shard-size", 2).code == 0
    found = samples(tmp_path / "dst")
    assert [key for key, _ in found] == ["000000000", "000000001", "000010000", "000010001", "000020000"]
    for number, (_, members) in enumerate(found):
        assert (members["jpg"], members["txt"]) == (photo(number), f"photo {number}".encode())
        assert json.loads(members["json"])["source_path"] == f"images/{number}.jpg"


def test_quotes_line_ends_and_empty_lines_do_not_shift_rows(tmp_path: Path, prepare: Prepare) -> None:
    """A shard begins at a byte of the table: one counted wrongly, and all captions after it are of other images."""
    rows = [
        'images/0.jpg\t"two\nlines\tand ""quotes"""\r',
        "",
        "",
        'images/1.jpg\t"\u00fc\n"',
        "images/2.jpg\tthree\r",
        "\r",
    ]
    table = write_table(
        tmp_path / "src", [*rows, "images/3.jpg\tfour", "images/4.jpg\tfive"], "\ufefffilepath\ttitle\r"
    )
    assert prepare("csv", table, tmp_path / "dst", "--shard-size", 1).code == 0
    captions = [members["txt"].decode() for _, members in samples(tmp_path / "dst")]
    assert captions == ['two\nlines\tand "quotes"', "\u00fc", "three", "four", "five"]
    assert [members["jpg"] for _, members in samples(tmp_path / "dst")] == [photo(i) for i in range(5)]


def test_columns_and_separator_are_open_clips_options(tmp_path: Path, prepare: Prepare) -> None:
    """A table that open_clip reads would not be read here."""
    table = write_table(tmp_path / "src", ['x,"a, b",images/0.jpg'], "id,text,image")
    options = ("--csv-separator", ",", "--csv-img-key", "image", "--csv-caption-key", "text")
    assert prepare("csv", table, tmp_path / "dst", *options).code == 0
    assert samples(tmp_path / "dst")[0][1]["txt"] == b"a, b"


def test_bad_rows_are_left_out_and_named(tmp_path: Path, prepare: Prepare) -> None:
    """S1: a table would publish any file of this machine; or one bad row would stop 15 million good ones."""
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(photo(9))
    rows = {
        "../outside.jpg\tup": OUTSIDE,
        f"{outside}\tabsolute": OUTSIDE,
        "images/link.jpg\tlink": OUTSIDE,
        "/etc/passwd\tsystem": OUTSIDE,
        "http://169.254.169.254/x.jpg\turl": MISSING,
        "images/9.jpg\tmissing": MISSING,
        "images\tfolder": "no regular file",
        "images/1.jpg\t ": EMPTY_CAPTION,
        "images/2.jpg\tcaf\udce9": NO_UTF8,
        "images/3.jpg": SHORT_ROW,
    }
    table = write_table(tmp_path / "src", [*rows, "images/4.jpg\tgood"])
    (tmp_path / "src" / "images" / "link.jpg").symlink_to(outside)
    assert prepare("csv", table, tmp_path / "dst", "--shard-size", 3).code == 0
    assert rejections(tmp_path / "dst") == {row.split("\t")[0]: reason for row, reason in rows.items()}
    assert [members["txt"] for _, members in samples(tmp_path / "dst")] == [b"good"]


def test_an_absolute_path_below_the_table_is_taken(tmp_path: Path, prepare: Prepare) -> None:
    """Tables are often written with absolute paths."""
    table = write_table(tmp_path / "src", [f"{tmp_path}/src/images/0.jpg\tphoto"])
    assert prepare("csv", table, tmp_path / "dst").code == 0
    assert len(samples(tmp_path / "dst")) == 1


REFUSED = {
    "no such column": (["images/0.jpg\tphoto"], "path\ttext", (), "no column filepath or title"),
    "another separator": (["images/0.jpg,photo"], "filepath,title", (), "--csv-separator"),
    "no row": ([], "filepath\ttitle", (), "no row"),
    "an open quote": (['images/0.jpg\t"' + "x" * 200_000], "filepath\ttitle", (), "no CSV"),
    "a long separator": ([], "", ("--csv-separator", "ab"), "one character"),
}


@pytest.mark.parametrize(("rows", "header", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_is_none_is_refused(
    tmp_path: Path, prepare: Prepare, rows: list[str], header: str, options: tuple[str, ...], words: str
) -> None:
    """The mistake would show as an empty data set, or as captions that are paths."""
    done = prepare("csv", write_table(tmp_path / "src", rows, header), tmp_path / "dst", *options)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "dst").exists()
