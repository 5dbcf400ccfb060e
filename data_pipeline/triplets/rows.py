"""Which judgements of a table are trained on, and how many are left out for which reason. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.randomness import Stream, permutation
from pineco.data_pipeline.triplets.fields import shown
from pineco.data_pipeline.triplets.table import TripletTable, select_rows

Ties = Literal["drop", "refuse"]
NAMED = 8  # other splits in the log; a column that is no split has as many as rows


@dataclass(frozen=True, kw_only=True)
class RowChoice:
    split: str = "train"
    min_votes: int = 6  # rows with fewer are dropped; NIGHTS keeps six or more
    ties: Ties = "drop"  # rows of which people are undecided
    share: float = 1.0  # in (0, 1]: of the rows that are left; a smaller share is part of every larger one
    seed: int = 0  # of the share


@dataclass(frozen=True)
class ChosenRows:
    rows: np.ndarray  # (k,) int64, ascending
    few_votes: int
    ties: int
    beyond_share: int
    other_splits: tuple[tuple[str, int], ...] = ()  # (name, rows): "trian" would take rows with it unseen

    @property
    def dropped(self) -> int:
        return self.few_votes + self.ties + self.beyond_share


def choose_rows(table: TripletTable, choice: RowChoice) -> ChosenRows:
    """Raises InputError for a split that is not there, for ties that are refused, and where no row is left."""
    if not 0 < choice.share <= 1:
        raise InputError(f"data.share is {choice.share}; it must be above 0 and at most 1")
    voted = select_rows(table, choice.split, choice.min_votes, ties=True)
    rows = voted[table.right_vote[voted] != 0.5]
    tied = len(voted) - len(rows)
    where = f"{table.where}: split {choice.split!r}"
    if tied and choice.ties == "refuse":
        raise InputError(f"{where} has {tied} of {len(voted)} rows with equal votes; pass data.ties=drop, or mend it")
    if not len(rows):
        raise InputError(f"{where} has equal votes in each of {len(voted)} rows; there is nothing to learn in it")
    part = max(1, round(choice.share * len(rows)))
    chosen = np.sort(rows[permutation(len(rows), choice.seed, Stream.SHARE)[:part]])
    few = int(table.of_split(choice.split).sum()) - len(voted)
    return ChosenRows(chosen, few, tied, len(rows) - part, table.other_splits(choice.split))


def describe(choice: RowChoice, chosen: ChosenRows) -> str:
    """How many rows are read, how many are left out for which reason, and how many stand in other splits; in one line.

    Reasons that hold for none are left out.
    """
    reasons = [
        (chosen.few_votes, f"with fewer than {choice.min_votes} votes"),
        (chosen.ties, "with equal votes"),
        (chosen.beyond_share, f"beyond a share of {choice.share:g}"),
    ]
    kept, every = len(chosen.rows), len(chosen.rows) + chosen.dropped
    text = f"{kept:,} of {every:,} triplets of split {choice.split!r}{_others(chosen.other_splits)}"
    dropped = [f"{number:,} {reason}" for number, reason in reasons if number]
    return text + (f", without {', '.join(dropped)}" if dropped else "")


def _others(splits: tuple[tuple[str, int], ...]) -> str:
    """In brackets; nothing where there is no other split."""
    named = [f"{shown(name)} {rows:,}" for name, rows in splits[:NAMED]]
    more = [f"and {len(splits) - NAMED:,} more"] if len(splits) > NAMED else []
    return f" (other splits: {', '.join(named + more)})" if named else ""
