"""The table of judgements: NIGHTS' halves and prompts, and what becomes of undecided rows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores.store import open_store
from pineco.data_pipeline.triplets.table import (
    COLUMNS,
    GROUP,
    GROUPS,
    NIGHTS_COLUMNS,
    PROMPT,
    TABLE,
    TripletTable,
    read_nights,
    read_table,
    select_rows,
)


def read(root: Path, groups: list[str] | None, *, nights: bool) -> TripletTable:
    """A table of a row for each of `groups`, or of two rows without that column, which stands in the middle."""
    sides = ("a.png", "b.png", "c.png") if nights else ("0", "1", "2")
    columns = list(NIGHTS_COLUMNS if nights else COLUMNS)
    rows = [["test", "0.5", "0.5", "7", str(i), *sides] for i in range(2 if groups is None else len(groups))]
    if groups is not None:
        for line, value in zip([columns, *rows], [GROUP, *groups], strict=True):
            line.insert(3, value)
    (root / ("data.csv" if nights else TABLE)).write_text("\n".join(map(",".join, [columns, *rows])) + "\n")
    return read_nights(root).table if nights else read_table(open_store(str(root)), 3)


@pytest.mark.parametrize("nights", [True, False], ids=["folder", "shards"])
def test_the_halves_of_nights_test_split_are_known(nights: bool, tmp_path: Path) -> None:
    """The two published parts of the test split could not be told, or a column would be taken for an image."""
    table = read(tmp_path, ["True", "False", "true", "0", "1"], nights=nights)
    assert table.group is not None
    assert [GROUPS[number] for number in table.group.tolist()] == [
        "imagenet", "no_imagenet", "imagenet", "no_imagenet", "imagenet",
    ]  # fmt: skip
    assert table.images.tolist() == [[0, 1, 2]] * 5


@pytest.mark.parametrize("nights", [True, False], ids=["folder", "shards"])
def test_a_table_need_not_say(nights: bool, tmp_path: Path) -> None:
    """Every source but NIGHTS would be refused, or all its rows would count as not of ImageNet."""
    assert read(tmp_path, None, nights=nights).group is None


def test_what_is_neither_true_nor_false_is_named(tmp_path: Path) -> None:
    """A row of unknown kind would be counted in one of the parts."""
    with pytest.raises(InputError, match=r"data\.csv: line 3: is_imagenet is 'maybe'; must be True or False"):
        read(tmp_path, ["True", "maybe"], nights=True)


def test_undecided_rows_stay_where_they_are_asked_for() -> None:
    """A score would leave out triplets that DreamSim's counts, or a model would be trained on them."""
    shares, votes = np.array([0.5, 1, 0.5, 0.25], np.float32), np.array([7, 7, 5, 7])
    table = TripletTable(("test",), np.zeros(4, np.int32), shares, votes, np.zeros((4, 3), np.int64), "table")
    assert select_rows(table, "test", 6).tolist() == [1, 3]
    assert select_rows(table, "test", 6, ties=True).tolist() == [0, 1, 3]
    with pytest.raises(InputError, match="has no row with 8 votes or more"):
        select_rows(table, "test", 8, ties=True)


def read_prompts(root: Path, prompts: list[str], *, nights: bool, groups: bool) -> TripletTable:
    """A table of a row for each prompt, whose column stands first, and the one of groups behind it."""
    sides = ["a.png", "b.png", "c.png"] if nights else ["0", "1", "2"]
    lines = [[PROMPT, *[GROUP] * groups, *(NIGHTS_COLUMNS if nights else COLUMNS)]]
    lines += [[p, *["True"] * groups, "test", "0.5", "0.5", "7", str(i), *sides] for i, p in enumerate(prompts)]
    with (root / ("data.csv" if nights else TABLE)).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return read_nights(root).table if nights else read_table(open_store(str(root)), 3)


@pytest.mark.parametrize("groups", [True, False], ids=["with halves", "prompts alone"])
@pytest.mark.parametrize("nights", [True, False], ids=["folder", "shards"])
def test_rows_keep_their_prompts(nights: bool, groups: bool, tmp_path: Path) -> None:
    """A text tower would learn the prompts of other images, or one optional column be read as the other."""
    prompts = ["wasp", "a, b", "", " wasp ", 'say "grün"', "two\nlines", "a, b", "last"]
    table = read_prompts(tmp_path, prompts, nights=nights, groups=groups)
    assert table.prompt is not None
    assert table.lines is not None
    assert [table.prompt_names[number] for number in table.prompt.tolist()] == [prompt.strip() for prompt in prompts]
    assert table.prompt_names == ("wasp", "a, b", "", 'say "grün"', "two\nlines", "last")
    assert table.lines.tolist() == [2, 3, 4, 5, 6, 8, 9, 10]
    assert (table.prompt.dtype, table.lines.dtype) == (np.dtype(np.int32), np.dtype(np.int32))
    assert (table.group is not None) == groups
    assert table.images.tolist() == [[0, 1, 2]] * 8


@pytest.mark.parametrize("nights", [True, False], ids=["folder", "shards"])
def test_a_table_without_prompts_keeps_nothing_for_them(nights: bool, tmp_path: Path) -> None:
    """THINGS would be refused, or its 4.7 million rows take a fifth more memory for nothing."""
    table = read(tmp_path, ["True", "False"], nights=nights)
    assert (table.prompt, table.prompt_names, table.lines) == (None, (), None)


def test_a_quote_that_nobody_closes_is_one_line(tmp_path: Path) -> None:
    """Prompts are free text: one quote would take the rest of the table for a field, and end in a traceback."""
    read_prompts(tmp_path, ["wasp"] * 4000, nights=False, groups=False)
    table = (tmp_path / TABLE).read_text().replace("wasp", '"wasp', 1)
    (tmp_path / TABLE).write_text(table + "wasp," * 30_000)
    with pytest.raises(InputError, match=r"triplets\.csv: line \d+: no CSV \(field larger than field limit") as caught:
        read_table(open_store(str(tmp_path)), 3)
    assert "\n" not in str(caught.value)


def write(root: Path, lines: list[str], *, nights: bool, mark: str = "") -> TripletTable:
    (root / ("data.csv" if nights else TABLE)).write_bytes((mark + "".join(lines)).encode())
    return read_nights(root).table if nights else read_table(open_store(str(root)), 3)


def usual(nights: bool) -> list[str]:
    """A header and two rows."""
    sides = "a.png,b.png,c.png" if nights else "0,1,2"
    rows = [f"train,{1 - vote},{vote},7,{vote},{sides}\n" for vote in (0, 1)]
    return [",".join(NIGHTS_COLUMNS if nights else COLUMNS) + "\n", *rows]


LAYOUTS = pytest.mark.parametrize("nights", [True, False], ids=["folder", "shards"])


@LAYOUTS
def test_a_table_that_a_spreadsheet_saved_is_read(nights: bool, tmp_path: Path) -> None:
    """Its byte order mark would be part of the first column's name, and that column be missing."""
    table = write(tmp_path, usual(nights), nights=nights, mark="\ufeff")
    assert (table.split_names, table.right_vote.tolist()) == (("train",), [0, 1])


@LAYOUTS
def test_blank_lines_are_no_rows(nights: bool, tmp_path: Path) -> None:
    """A table that ends in two line breaks, as editors leave them, would be refused for a row that was cut."""
    header, first, second = usual(nights)
    table = write(tmp_path, ["\n", header, "\r\n", first, "\n\n", second, "\n\n"], nights=nights)
    assert table.right_vote.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"line 4: 1 fields, 8 columns"):
        write(tmp_path, [header, first, second, " \n"], nights=nights)


@LAYOUTS
@pytest.mark.parametrize("place", [0, 2, 7])
def test_a_column_that_is_there_twice_is_refused(nights: bool, place: int, tmp_path: Path) -> None:
    """One of two columns of votes would be read, and nobody know which."""
    name = (NIGHTS_COLUMNS if nights else COLUMNS)[place]
    lines = [line[:-1] + more + "\n" for line, more in zip(usual(nights), (f",{name}", ",0", ",0"), strict=True)]
    with pytest.raises(InputError, match=rf"\.csv: has more than one column {name}; keep"):
        write(tmp_path, lines, nights=nights)


@pytest.mark.parametrize("name", [GROUP, PROMPT])
def test_an_optional_column_that_is_there_twice_is_refused(name: str, tmp_path: Path) -> None:
    """A text tower would learn one of two columns of prompts."""
    lines = [
        line[:-1] + more + "\n" for line, more in zip(usual(True), (f",{name},{name}", *[",1,1"] * 2), strict=True)
    ]
    with pytest.raises(InputError, match=f"has more than one column {name}"):
        write(tmp_path, lines, nights=True)


@pytest.mark.parametrize("left", ["0.333333", "0.3333339"])
def test_rounded_votes_add_up(left: str, tmp_path: Path) -> None:
    """A table with six decimals would be refused for a rest that is no mistake."""
    header, row, _ = usual(False)
    assert write(tmp_path, [header, row.replace("1,0", f"{left},0.666666", 1)], nights=False).votes.tolist() == [7]


def test_votes_of_shards_are_checked_alike(tmp_path: Path) -> None:
    """The same table would be refused in a folder and crash, or be trained on, over shards."""
    header, first, second = usual(False)
    for votes in ("1e300", "6.5", "-1"):
        with pytest.raises(InputError, match=rf"triplets\.csv: line 3: votes is '{votes}'"):
            write(tmp_path, [header, first, second.replace(",7,", f",{votes},")], nights=False)
    with pytest.raises(InputError, match=r"triplets\.csv: line 3: left_vote is 0\.5 and right_vote 1\.0"):
        write(tmp_path, [header, first, second.replace("train,0", "train,0.5")], nights=False)
