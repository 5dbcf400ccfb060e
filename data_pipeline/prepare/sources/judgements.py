"""Judgements of triplets as columns, and the table that says which samples of the shards they are about."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pineco.data_pipeline.prepare.job import Reject
from pineco.data_pipeline.prepare.outcome import Rejected

COLUMNS = ("id", "split", "left_vote", "right_vote", "votes", "ref", "left", "right")
LOST_IMAGE = "its image was rejected"
_CHUNK = 1 << 16  # rows that are Python objects at a time


@dataclass(frozen=True)
class Judgements:
    """N rows: arrays, because THINGS has 4.7 million of them."""

    ids: Sequence[object]  # (N,) a list of names, or a range
    split_names: tuple[str, ...]
    split: np.ndarray  # (N,) int: number of the name
    right_vote: np.ndarray  # (N,) float64 in [0, 1]: share of the voters who found `right` more similar
    votes: np.ndarray  # (N,) int
    images: np.ndarray  # (N, 3) int: reference, left, right
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)  # further columns, kept as they are

    def __len__(self) -> int:
        return len(self.images)


class JudgementList:
    """Collects rows one by one, for tables of some hundred thousand."""

    def __init__(self) -> None:
        self._ids: list[object] = []
        self._splits: list[str] = []
        self._votes: list[tuple[float, int]] = []
        self._images: list[list[int]] = []
        self._numbers: dict[str, int] = {}
        self._extra: dict[str, list[str]] = {}

    def add(
        self, name: str, split: str, right_vote: float, votes: int, paths: Sequence[str], extra: Mapping[str, str]
    ) -> None:
        """paths: of reference, left, right. extra: the same columns for every row."""
        self._ids.append(name)
        self._splits.append(split)
        self._votes.append((right_vote, votes))
        self._images.append([self._numbers.setdefault(path, len(self._numbers)) for path in paths])
        for column, value in extra.items():
            self._extra.setdefault(column, []).append(value)

    def build(self) -> tuple[list[str], Judgements]:
        """The distinct paths in the order in which they came, and the rows over them."""
        names = tuple(dict.fromkeys(self._splits))
        place = {name: number for number, name in enumerate(names)}
        split = np.array([place[name] for name in self._splits], np.int32)
        shares = np.array([share for share, _ in self._votes], np.float64)
        votes = np.array([votes for _, votes in self._votes], np.int64)
        images = np.array(self._images, np.int64).reshape(-1, 3)
        return list(self._numbers), Judgements(self._ids, names, split, shares, votes, images, self._extra)


def write_table(path: Path, rows: Judgements, samples: np.ndarray, reject: Reject) -> int:
    """Writes the rows whose images are all there; returns how many.

    samples: (M,) int, the sample number of every image, -1 for one that was rejected.
    """
    written = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, *rows.extra))
        for start in range(0, len(rows), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            sides = samples[rows.images[chunk]]
            kept = (sides >= 0).all(axis=1)
            for row in np.flatnonzero(~kept).tolist():
                reject(Rejected(f"triplet {rows.ids[start + row]}", LOST_IMAGE))
            lines = zip(*_columns(rows, chunk, sides), strict=True)
            writer.writerows(line for line, keep in zip(lines, kept, strict=True) if keep)
            written += int(kept.sum())
    return written


def _columns(rows: Judgements, chunk: slice, sides: np.ndarray) -> list[Sequence[object]]:
    right = rows.right_vote[chunk]
    left = np.round(1 - right, 12)  # so that the rest of 0.8 is 0.2
    names = [rows.split_names[number] for number in rows.split[chunk].tolist()]
    numbers = [column.tolist() for column in (left, right, rows.votes[chunk], *sides.T)]
    return [rows.ids[chunk], names, *numbers, *(column[chunk] for column in rows.extra.values())]
