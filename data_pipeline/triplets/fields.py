"""What the rows of a table of triplets may say: one rule for whoever reads such a table or prepares one.

The checks of a row raise InputError without a place; the caller knows it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pineco.data_pipeline.errors import InputError

GROUP = "is_imagenet"  # a column that may be missing: NIGHTS' test split is reported in these two halves
PROMPT = "prompt"  # another one: what the three images were generated from
OPTIONAL = (GROUP, PROMPT)
NAME_LENGTH = 100  # characters of a name or a path in a message
_MOST_VOTES = 1 << 53  # up to it every whole number is a float
_SUM_ERROR = 1.000001e-6  # of left_vote + right_vote: 0.333333 and 0.666666 are just within, as floats too
_TRUTH = {"false": 0, "true": 1, "0": 0, "1": 1}


def csv_lines(data: bytes, where: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, fields) of every row, that of the header too; lines with nothing in them are left out.

    A byte order mark is no part of the first name: spreadsheets write one. Raises InputError for what is no table.
    """
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:  # a quote that nobody closes takes the rest of the file for one field
        raise InputError(f"{where}: line {reader.line_num}: no CSV ({error})") from None


def check_columns(header: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Raises InputError where one of `columns` is missing, or where one that is read is there twice."""
    if missing := [name for name in columns if name not in header]:
        raise InputError(f"{where}: lacks the columns {', '.join(missing)}")
    if twice := [name for name in (*columns, *OPTIONAL) if header.count(name) > 1]:
        raise InputError(f"{where}: has more than one column {twice[0]}; keep the one that holds")


def parse_votes(left: str, right: str, votes: str) -> tuple[float, int]:
    """(share of the voters for the right side, number of votes); raises InputError."""
    try:
        other, share, number = float(left), float(right), float(votes)
    except ValueError:
        raise InputError("left_vote, right_vote or votes is no number") from None
    if not 0 <= share <= 1:
        raise InputError(f"right_vote is {share}, outside [0, 1]")
    if not abs(other + share - 1) <= _SUM_ERROR:  # so written that NaN is refused
        raise InputError(f"left_vote is {other} and right_vote {share}; they must add up to 1")
    if not (0 <= number <= _MOST_VOTES and number.is_integer()):
        raise InputError(f"votes is {votes!r:.40}; it must be a whole number and not negative")
    return share, int(number)


def parse_group(text: str) -> int:
    """1 for an image of ImageNet; raises InputError."""
    try:
        return _TRUTH[text.strip().lower()]
    except KeyError:
        raise InputError(f"{GROUP} is {text!r:.40}; must be True or False") from None


def check_paths(paths: Sequence[str]) -> None:
    """Raises InputError for a path that is not relative, leads outside, or would break a message or a list in two."""
    for path in paths:
        parts = PurePosixPath(path)
        if not path or parts.is_absolute() or ".." in parts.parts:
            raise InputError(f"path {path!r:.{NAME_LENGTH}} must be relative and stay inside the folder")
        if path.splitlines() != [path] or "\0" in path:
            raise InputError(f"path {path!r:.{NAME_LENGTH}} has a line break or a NUL in it; rename the file")


def shown(name: str) -> str:
    """A name for a message of one line: as it is, or quoted where blanks or what cannot be printed hide in it; cut."""
    plain = name.isprintable() and name.strip() == name != ""
    text = name if plain else repr(name)
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 3] + "..."
