"""Judgements of triplets: NIGHTS' data.csv over files, or triplets.csv over the samples of shards."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.shards import Store

TABLE = "triplets.csv"
COLUMNS = ("split", "left_vote", "right_vote", "votes", "id", "ref", "left", "right")  # found by name, in any order
NIGHTS_COLUMNS = (*COLUMNS[:5], "ref_path", "left_path", "right_path")
GROUP = "is_imagenet"  # a column that may be missing: NIGHTS' test split is reported in these two halves
GROUPS = ("no_imagenet", "imagenet")
_TRUTH = {"false": 0, "true": 1, "0": 0, "1": 1}


@dataclass(frozen=True)
class TripletTable:
    """n judgements."""

    split_names: tuple[str, ...]
    split: np.ndarray  # (n,) int32: number of the name
    right_vote: np.ndarray  # (n,) float32 in [0, 1]: share of the voters who found `right` more similar
    votes: np.ndarray  # (n,) int64
    images: np.ndarray  # (n, 3) int64: reference, left, right, as rows of a reader
    where: str  # for messages
    group: np.ndarray | None = None  # (n,) int8: number of the name in GROUPS; None where the table does not say

    def of_split(self, name: str) -> np.ndarray:
        """(n,) bool; raises InputError for a split that is not there."""
        if name not in self.split_names:
            known = ", ".join(sorted(self.split_names)) or "no rows"
            raise InputError(f"{self.where}: no split {name!r}; it has {known}")
        return self.split == self.split_names.index(name)


@dataclass(frozen=True)
class NightsFolder:
    table: TripletTable
    paths: list[str]  # of the images, relative to the folder


def select_rows(table: TripletTable, split: str, min_votes: int, *, ties: bool = False) -> np.ndarray:
    """(k,) int64: the rows of a split with enough votes; raises InputError where there is none.

    ties: whether those stay of which people are undecided. They teach nothing, but count in a score.
    """
    kept = np.flatnonzero(table.of_split(split) & (table.votes >= min_votes) & (ties | (table.right_vote != 0.5)))
    if not len(kept):
        raise InputError(f"{table.where}: split {split!r} has no row with {min_votes} votes or more")
    return kept


def read_table(store: Store, samples: int) -> TripletTable:
    """triplets.csv beside shards of `samples` images; its columns ref, left and right are sample numbers."""
    where = store.where(TABLE)
    size = store.find(TABLE)
    if size is None:
        raise InputError(f"{where}: not there; write the triplets with python -m data_pipeline.prepare")
    rows = _rows(store.read(TABLE, 0, size), where, COLUMNS)
    return _parse(rows, where, lambda row, line: _numbers(row[5:8], samples, line))


def read_nights(root: Path) -> NightsFolder:
    """data.csv of a folder in NIGHTS' layout; its paths are relative to the folder and stay inside."""
    where = str(root / "data.csv")
    rows = list(_rows((root / "data.csv").read_bytes(), where, NIGHTS_COLUMNS))
    paths = sorted({path for line, row in rows for path in _paths(row[5:8], line)})
    number = {path: n for n, path in enumerate(paths)}
    return NightsFolder(_parse(rows, where, lambda row, line: [number[path] for path in row[5:8]]), paths)


Row = Sequence[str]  # in the order of COLUMNS, and behind them GROUP where the table has it


def _rows(data: bytes, where: str, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """(line for messages, its fields in the order of `columns`, and GROUP's where there is such a column)."""
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8"), newline=""))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    header = next(reader, [])
    missing = [c for c in columns if c not in header]
    if missing:
        raise InputError(f"{where}: lacks the columns {', '.join(missing)}")
    places = [header.index(c) for c in (*columns, GROUP) if c in header]
    for fields in reader:
        line = f"{where}: line {reader.line_num}"
        if len(fields) != len(header):
            raise InputError(f"{line}: {len(fields)} fields, {len(header)} columns; the file was cut or edited")
        yield line, [fields[place] for place in places]


def _parse(rows: Iterable[tuple[str, Row]], where: str, images_of: Callable[[Row, str], Sequence[int]]) -> TripletTable:
    """Compact arrays as they come: THINGS has 4.7 million rows."""
    names: dict[str, int] = {}
    split, share, votes, images, group = array("i"), array("f"), array("q"), array("q"), array("b")
    for line, row in rows:
        right_vote, number = _votes(row, line)
        split.append(names.setdefault(row[0], len(names)))
        share.append(right_vote)
        votes.append(number)
        images.extend(images_of(row, line))
        if len(row) > len(COLUMNS):
            group.append(_group(row[-1], line))
    arrays = (np.array(split), np.array(share), np.array(votes), np.array(images).reshape(-1, 3))
    return TripletTable(tuple(names), *arrays, where, np.array(group) if group else None)


def _votes(row: Row, line: str) -> tuple[float, int]:
    try:
        right_vote, votes = float(row[2]), int(float(row[3]))
    except (OverflowError, ValueError):
        raise InputError(f"{line}: right_vote or votes is no number") from None
    if not 0 <= right_vote <= 1:
        raise InputError(f"{line}: right_vote is {right_vote}, outside [0, 1]")
    return right_vote, votes


def _group(text: str, line: str) -> int:
    try:
        return _TRUTH[text.strip().lower()]
    except KeyError:
        raise InputError(f"{line}: {GROUP} is {text!r:.40}; must be True or False") from None


def _numbers(sides: Row, samples: int, line: str) -> list[int]:
    try:
        numbers = [int(side) for side in sides]
    except ValueError:
        raise InputError(f"{line}: ref, left or right is no sample number") from None
    if not all(0 <= number < samples for number in numbers):
        raise InputError(f"{line}: names a sample that is not there; the shards hold {samples}")
    return numbers


def _paths(sides: Row, line: str) -> Row:
    for path in sides:
        if not path or Path(path).is_absolute() or ".." in Path(path).parts:
            raise InputError(f"{line}: path {path!r} must be relative and stay inside the folder")
    return sides
