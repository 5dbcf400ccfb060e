"""Judgements of triplets: NIGHTS' data.csv over files, or triplets.csv over the samples of shards."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores.store import Store
from pineco.data_pipeline.triplets.fields import (
    GROUP,
    OPTIONAL,
    PROMPT,
    check_columns,
    check_paths,
    csv_lines,
    parse_group,
    parse_votes,
    shown,
)

TABLE = "triplets.csv"
COLUMNS = ("split", "left_vote", "right_vote", "votes", "id", "ref", "left", "right")  # found by name, in any order
NIGHTS_COLUMNS = (*COLUMNS[:5], "ref_path", "left_path", "right_path")
GROUPS = ("no_imagenet", "imagenet")  # what parse_group tells apart


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
    prompt: np.ndarray | None = None  # (n,) int32: number of the name; None where there is no such column
    prompt_names: tuple[str, ...] = ()  # distinct; one of them is empty where a row has no prompt
    lines: np.ndarray | None = None  # (n,) int32: of the file, counted from 1, where it has prompts; for messages

    def of_split(self, name: str) -> np.ndarray:
        """(n,) bool; raises InputError for a split that is not there."""
        if name not in self.split_names:
            known = ", ".join(map(shown, sorted(self.split_names))) or "no rows"
            raise InputError(f"{self.where}: no split {name!r}; it has {known}")
        return self.split == self.split_names.index(name)

    def other_splits(self, name: str) -> tuple[tuple[str, int], ...]:
        """(name, rows) of every split but this one, large ones first."""
        rows = np.bincount(self.split, minlength=len(self.split_names)).tolist()
        others = [(other, count) for other, count in zip(self.split_names, rows, strict=True) if other != name]
        return tuple(sorted(others, key=lambda other: -other[1]))


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
        raise InputError(f"{where}: not there; write the triplets with pineco data prepare")
    rows = _rows(store.read(TABLE, 0, size), where, COLUMNS)
    return _parse(rows, lambda sides: _numbers(sides, samples))


def read_nights(root: Path) -> NightsFolder:
    """data.csv of a folder in NIGHTS' layout; its paths are relative to the folder and stay inside."""
    rows = _rows((root / "data.csv").read_bytes(), str(root / "data.csv"), NIGHTS_COLUMNS)
    rows = replace(rows, fields=list(rows.fields))
    paths = sorted({path for _, row in rows.fields for path in row[5:8]})
    place = {path: n for n, path in enumerate(paths)}

    def images(sides: Row) -> list[int]:
        check_paths(sides)
        return [place[path] for path in sides]

    return NightsFolder(_parse(rows, images), paths)


Row = Sequence[str]  # in the order of COLUMNS, and behind them the columns of OPTIONAL that the table has


@dataclass(frozen=True)
class _Rows:
    where: str
    optional: Sequence[str]  # those of OPTIONAL that are there
    fields: Iterable[tuple[int, Row]]  # with the number of its line

    def place(self, column: str) -> int | None:
        """Of an optional column in a Row."""
        return len(COLUMNS) + self.optional.index(column) if column in self.optional else None


def _rows(data: bytes, where: str, columns: Sequence[str]) -> _Rows:
    """The fields of every row in the order of `columns`, and then of OPTIONAL."""
    lines = csv_lines(data, where)
    _, header = next(lines, (0, []))
    check_columns(header, columns, where)
    optional = [c for c in OPTIONAL if c in header]
    places = [header.index(c) for c in (*columns, *optional)]

    def fields() -> Iterator[tuple[int, Row]]:
        for number, line in lines:
            if len(line) != len(header):
                told = f"{len(line)} fields, {len(header)} columns; the file was cut or edited"
                raise InputError(f"{where}: line {number}: {told}")
            yield number, [line[place] for place in places]

    return _Rows(where, optional, fields())


def _parse(rows: _Rows, images_of: Callable[[Row], Sequence[int]]) -> TripletTable:
    """Compact arrays as they come: THINGS has 4.7 million rows."""
    names: dict[str, int] = {}
    texts: dict[str, int] = {}
    split, share, votes, images, group = array("i"), array("f"), array("q"), array("q"), array("b")
    prompt, lines = array("i"), array("i")
    group_at, prompt_at = rows.place(GROUP), rows.place(PROMPT)
    for number, row in rows.fields:
        try:
            right_vote, voters = parse_votes(*row[1:4])
            images.extend(images_of(row[5:8]))
            if group_at is not None:
                group.append(parse_group(row[group_at]))
        except InputError as error:
            raise InputError(f"{rows.where}: line {number}: {error}") from None
        split.append(names.setdefault(row[0], len(names)))
        share.append(right_vote)
        votes.append(voters)
        if prompt_at is not None:
            prompt.append(texts.setdefault(row[prompt_at].strip(), len(texts)))
            lines.append(number)
    arrays = (np.array(split), np.array(share), np.array(votes), np.array(images).reshape(-1, 3))
    extra = [
        None if at is None else np.array(a) for at, a in ((group_at, group), (prompt_at, prompt), (prompt_at, lines))
    ]
    return TripletTable(tuple(names), *arrays, rows.where, extra[0], extra[1], tuple(texts), extra[2])


def _numbers(sides: Row, samples: int) -> list[int]:
    try:
        numbers = [int(side) for side in sides]
    except ValueError:
        raise InputError("ref, left or right is no sample number") from None
    if not all(0 <= number < samples for number in numbers):
        raise InputError(f"names a sample that is not there; the shards hold {samples}")
    return numbers
