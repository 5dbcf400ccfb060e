"""NIGHTS: data.csv beside the folders of images that it names (DreamSim, arXiv 2306.09344)."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.prepare.confine import resolve_below
from data_pipeline.prepare.images import ImageRules
from data_pipeline.prepare.job import Fingerprint
from data_pipeline.prepare.judgements import JudgementList
from data_pipeline.prepare.outcome import RejectError
from data_pipeline.prepare.triplet_shards import TripletShards, triplet_shards
from data_pipeline.triplet_table import GROUP, NIGHTS_COLUMNS, PROMPT

TABLE = "data.csv"
PATHS = ("ref_path", "left_path", "right_path")
KEPT = (GROUP, PROMPT)  # where they are there
SHORT_ROW, BAD_VOTES = "fewer fields than columns", "votes are no shares that add up to 1"


def open_nights(root: Path, rules: ImageRules, shard_size: int, threads: int) -> TripletShards:
    """Reads data.csv: a row that cannot be used is rejected, a table without the columns refused. root: resolved."""
    try:
        data = resolve_below(root, TABLE)[0].read_bytes()
    except RejectError as error:
        where = f"{root / TABLE}: {error.reason}"
        raise InputError(f"{where}; expected NIGHTS' layout, data.csv beside the folders that it names") from None
    rows, rejected, items = JudgementList(), [], 0
    for line, row in _rows(data, str(root / TABLE)):
        items += 1
        try:
            share, votes = _votes(row)
            paths, extra = [row[column] for column in PATHS], {column: row[column] for column in KEPT if column in row}
            rows.add(row["id"], row["split"], share, votes, paths, extra)
        except RejectError as error:
            rejected.append(error.at(f"{TABLE} line {line}"))
    source = Fingerprint(items, hashlib.sha256(data).hexdigest())
    return triplet_shards(
        "nights", root, *rows.build(), rules, shard_size, source=source, rejected=rejected, threads=threads
    )


def _rows(data: bytes, where: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(number of its last line, fields by column) of every row."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if missing := [c for c in NIGHTS_COLUMNS if c not in (reader.fieldnames or ())]:
            raise InputError(f"{where}: lacks the columns {', '.join(missing)} of NIGHTS' table")
        for row in reader:
            yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{where}: line {reader.line_num}: no CSV ({error})") from None


def _votes(row: Mapping[str, str]) -> tuple[float, int]:
    """(share of the right side, number of votes); raises RejectError."""
    if any(row.get(column, "") is None for column in (*NIGHTS_COLUMNS, *KEPT)):
        raise RejectError(SHORT_ROW)
    try:
        left, right, votes = float(row["left_vote"]), float(row["right_vote"]), int(float(row["votes"]))
    except (OverflowError, ValueError):
        raise RejectError(BAD_VOTES, f"{row['left_vote']!r}, {row['right_vote']!r}, {row['votes']!r}") from None
    if not (0 <= right <= 1 and abs(left + right - 1) < 1e-6 and votes >= 0):
        raise RejectError(BAD_VOTES, f"{left}, {right}, {votes}")
    return right, votes
