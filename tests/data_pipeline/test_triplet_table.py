"""The table of judgements: which half of NIGHTS' test split a row is of, and what becomes of undecided rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.shards import open_store
from data_pipeline.triplet_table import (
    COLUMNS,
    GROUP,
    GROUPS,
    NIGHTS_COLUMNS,
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
