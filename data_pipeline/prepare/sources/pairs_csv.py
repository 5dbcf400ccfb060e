"""A table of image paths and captions, as open_clip trains on: CSV with the columns filepath and title."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import read_below
from pineco.data_pipeline.prepare.job import Beside, Fingerprint, Made, Part, Reject, slices
from pineco.data_pipeline.prepare.outcome import Outcome, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.samples.pairs import make_pair
from pineco.data_pipeline.prepare.samples.texts import clean_caption

SHORT_ROW = "fewer fields than columns"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """open_clip's options of the same names."""

    separator: str = "\t"
    image: str = "filepath"
    caption: str = "title"


@dataclass(frozen=True)
class PairsCsv:
    """The rows of a part are found by their place in the file: nobody holds them all."""

    path: Path  # resolved; images are named relative to its folder
    columns: Columns
    rules: ImageRules
    shard_size: int
    fields: tuple[int, int]  # which ones of a row hold path and caption
    starts: tuple[int, ...]  # byte at which the rows of each part begin
    parts: tuple[Part, ...]
    source: Fingerprint
    rejected: tuple[()] = ()
    kind: str = "csv"

    @property
    def options(self) -> Mapping[str, object]:
        return asdict(self.columns) | asdict(self.rules) | {"shard_size": self.shard_size}

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        image, caption = self.fields
        for place, (row, _) in enumerate(read_rows(self.path, self.columns.separator, self.starts[part.number])):
            if place == self.shard_size:
                return
            path = row[image] if image < len(row) else f"row {part.number * self.shard_size + place}"
            try:
                if len(row) <= max(self.fields):
                    raise RejectError(SHORT_ROW)
                text = clean_caption(row[caption])
                yield make_pair(read_below(self.path.parent, path), text, {}, path, self.rules)
            except RejectError as error:
                yield error.at(path)

    def finish(self, made: Sequence[Made], scratch: Path, reject: Reject) -> Iterator[Beside]:
        return iter(())


def open_pairs_csv(path: Path, columns: Columns, rules: ImageRules, shard_size: int) -> PairsCsv:
    """Looks through the table once; raises InputError where it is none, or lacks a column. path: resolved."""
    image, caption, begin = find_columns(path, columns)
    starts, items = [begin], 0
    for items, (_, end) in enumerate(read_rows(path, columns.separator, begin), 1):
        if items % shard_size == 0:
            starts.append(end)
    if not items:
        raise InputError(f"{path}: no row below its first line")
    parts = slices(items, shard_size, "rows")
    with path.open("rb") as file:
        source = Fingerprint(items, hashlib.file_digest(file, "sha256").hexdigest())
    return PairsCsv(path, columns, rules, shard_size, (image, caption), tuple(starts), parts, source)


def find_columns(path: Path, columns: Columns) -> tuple[int, int, int]:
    """Which fields of a row hold path and caption, and the byte at which rows begin; raises InputError."""
    header, begin = next(read_rows(path, columns.separator, 0), ([], 0))
    header = [name.removeprefix("\ufeff") for name in header]
    if missing := [name for name in (columns.image, columns.caption) if name not in header]:
        names = ", ".join(header)[:200]
        raise InputError(
            f"{path}: no column {' or '.join(missing)} in its first line ({names!r}); "
            "pass --csv-separator, --csv-img-key and --csv-caption-key"
        )
    return header.index(columns.image), header.index(columns.caption), begin


def read_rows(path: Path, separator: str, start: int) -> Iterator[tuple[list[str], int]]:
    """(fields, byte after the row) of every row that has any, from byte `start` on.

    What is no UTF-8 comes as lone surrogates: in a path they are its bytes, in a caption they are rejected.
    """
    position = start
    with path.open("rb") as file:
        file.seek(start)

        def lines() -> Iterator[str]:
            nonlocal position
            for line in file:
                position += len(line)
                yield line.decode(errors="surrogateescape")

        reader = csv.reader(lines(), delimiter=separator)
        try:
            for row in reader:
                if row:
                    yield row, position
        except csv.Error as error:
            mend = "check --csv-separator and quotes"
            raise InputError(f"{path}: no CSV before byte {position} ({error}); {mend}") from None
