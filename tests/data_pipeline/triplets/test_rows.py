"""Which judgements are trained on: shares within shares, ties as the recipe says, every row accounted for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.triplets.rows import ChosenRows, RowChoice, choose_rows, describe
from pineco.data_pipeline.triplets.table import TripletTable


def make_table(votes: list[float], numbers: list[int] | None = None, splits: list[int] | None = None) -> TripletTable:
    """Row i: right_vote votes[i]; seven votes and split train unless said otherwise."""
    n = len(votes)
    return TripletTable(
        ("train", "val"),
        np.array(splits or [0] * n, np.int32),
        np.array(votes, np.float32),
        np.array(numbers or [7] * n),
        np.arange(3 * n).reshape(n, 3),
        "there/triplets.csv",
    )


def choose(table: TripletTable, **options: Any) -> ChosenRows:
    return choose_rows(table, RowChoice(**options))


CLEAR = make_table([i % 2 for i in range(1000)])


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.integers(0, 2**63))
@settings(max_examples=60, deadline=None)
def test_a_smaller_share_is_part_of_a_larger_one(one: float, other: float, seed: int) -> None:
    """A curve over shares would compare data sets that differ in more than their size."""
    small, large = (choose(CLEAR, share=share, seed=seed).rows for share in sorted((one, other)))
    assert set(small.tolist()) <= set(large.tolist())
    assert (np.diff(large) > 0).all()  # in the order of the table, so that one range still reads neighbours
    assert abs(len(small) - 1000 * min(one, other)) <= 0.5 or len(small) == 1


def test_a_share_is_drawn_by_the_seed() -> None:
    """A share would be the first rows, which a source may have sorted, or the same rows in every seed."""
    first, again, other = (choose(CLEAR, share=0.1, seed=seed).rows for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(first) == 100
    assert 350 < first.mean() < 650
    assert first[:6].tolist() == [13, 16, 23, 25, 27, 30]


def test_a_tiny_share_is_one_row() -> None:
    """Training would fail later, over an empty data set."""
    assert len(choose(CLEAR, share=1e-6).rows) == 1


def test_all_of_it_is_all_of_it() -> None:
    """Runs of recipes without a share would be numbered otherwise than before there was one."""
    assert choose(CLEAR).rows.tolist() == list(range(1000))


def test_every_row_is_read_or_counted_once() -> None:
    """Rows would vanish without a word, or one be counted for two reasons."""
    table = make_table([0.5, 0.5, 1, 1, 0, 0.25, 0.5, 1], [5, 6, 5, 6, 9, 7, 8, 6], [0, 0, 0, 0, 0, 0, 0, 1])
    found = choose(table, share=0.67)
    assert (found.few_votes, found.ties, found.beyond_share, len(found.rows)) == (2, 2, 1, 2)
    assert found.dropped + len(found.rows) == 7
    assert set(found.rows.tolist()) < {3, 4, 5}


def test_ties_are_refused_where_the_recipe_says_so() -> None:
    """Whoever believes that a set has no ties would lose rows of it instead of learning better."""
    table = make_table([1, 0.5, 0, 0.5], [7, 7, 7, 5])
    with pytest.raises(InputError, match=r"split 'train' has 1 of 3 rows with equal votes; pass data\.ties=drop"):
        choose(table, ties="refuse")
    assert choose(table, ties="drop").ties == 1
    assert choose(make_table([1, 0]), ties="refuse").rows.tolist() == [0, 1]


def test_nothing_but_ties_is_refused() -> None:
    """Training would fail later, over an empty data set."""
    with pytest.raises(InputError, match=r"split 'train' has equal votes in each of 2 rows"):
        choose(make_table([0.5, 0.5]))


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    """5 for 5 % would read everything, and 0 nothing."""
    with pytest.raises(InputError, match=r"data\.share is .*above 0 and at most 1"):
        choose(CLEAR, share=share)


@pytest.mark.parametrize("ties", ["drop", "refuse"])
def test_a_split_that_is_not_there_is_refused(ties: Any) -> None:
    """A mistyped split would be an empty data set."""
    with pytest.raises(InputError, match=r"no split 'tarin'; it has train, val"):
        choose(CLEAR, split="tarin", ties=ties)


def named(names: list[str], rows: list[int]) -> str:
    """What the log says of a run on split train, of a table with so many rows of each split."""
    splits = [number for number, count in enumerate(rows) for _ in range(count)]
    table = replace(make_table([1.0] * len(splits), splits=splits), split_names=tuple(names))
    return describe(RowChoice(), choose(table))


def test_the_log_names_the_other_splits_with_their_rows() -> None:
    """Rows of a mistyped split would vanish: nobody asks for "trian", so nobody would miss it."""
    assert named(["train"], [5]) == "5 of 5 triplets of split 'train'"
    text = named(["trian", "val", "train", " train", ""], [2, 1200, 5, 1, 1])
    assert text == "5 of 5 triplets of split 'train' (other splits: val 1,200, trian 2, ' train' 1, '' 1)"


def test_a_column_that_is_no_split_does_not_fill_the_log() -> None:
    """A table with names of images for splits would write each of them, line breaks and all."""
    text = named(["train", "a\nb", "x" * 500, *map(str, range(20))], [5, 3, 2, *[1] * 20])
    assert f"(other splits: 'a\\nb' 3, {'x' * 97}... 2, 0 1, 1 1, 2 1, 3 1, 4 1, 5 1, and 14 more)" in text
    table = replace(make_table([1.0]), split_names=("a\nb",))
    with pytest.raises(InputError, match=r"no split 'train'; it has 'a\\nb'$"):
        choose(table)
