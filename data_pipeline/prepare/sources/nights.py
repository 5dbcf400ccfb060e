"""NIGHTS: data.csv beside the folders of images that it names (DreamSim, arXiv 2306.09344)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import resolve_below
from pineco.data_pipeline.prepare.job import Fingerprint
from pineco.data_pipeline.prepare.outcome import RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.sources.judgements import JudgementList
from pineco.data_pipeline.prepare.sources.triplet_shards import TripletShards, triplet_shards
from pineco.data_pipeline.triplets.fields import (
    GROUP,
    OPTIONAL,
    check_columns,
    check_paths,
    csv_lines,
    parse_group,
    parse_votes,
)
from pineco.data_pipeline.triplets.table import NIGHTS_COLUMNS

TABLE = "data.csv"
PATHS = ("ref_path", "left_path", "right_path")
RAGGED_ROW, BAD_VOTES = "not as many fields as columns", "votes are no shares that add up to 1"
BAD_PATH, BAD_GROUP = "path is not relative, leads outside, or has a line break", f"{GROUP} is neither True nor False"


def open_nights(root: Path, rules: ImageRules, shard_size: int, threads: int) -> TripletShards:
    """Reads data.csv: a row that cannot be used is rejected, a table without the columns refused. root: resolved."""
    try:
        data = resolve_below(root, TABLE)[0].read_bytes()
    except RejectError as error:
        where = f"{root / TABLE}: {error.reason}"
        raise InputError(f"{where}; expected NIGHTS' layout, data.csv beside the folders that it names") from None
    lines = csv_lines(data, str(root / TABLE))
    _, header = next(lines, (0, []))
    check_columns(header, NIGHTS_COLUMNS, str(root / TABLE))
    rows, rejected, items = JudgementList(), [], 0
    for line, fields in lines:
        items += 1
        try:
            _add(rows, header, fields)
        except RejectError as error:
            rejected.append(error.at(f"{TABLE} line {line}"))
    source = Fingerprint(items, hashlib.sha256(data).hexdigest())
    return triplet_shards(
        "nights", root, *rows.build(), rules, shard_size, source=source, rejected=rejected, threads=threads
    )


def _add(rows: JudgementList, header: Sequence[str], fields: Sequence[str]) -> None:
    """Raises RejectError for the rows that training on the folder itself refuses."""
    if len(fields) != len(header):
        raise RejectError(RAGGED_ROW, f"{len(fields)} fields, {len(header)} columns")
    row = dict(zip(header, fields, strict=True))
    share, votes = _votes(row)
    paths, extra = [row[column] for column in PATHS], {column: row[column] for column in OPTIONAL if column in row}
    try:
        check_paths(paths)
    except InputError as error:
        raise RejectError(BAD_PATH, str(error)) from None
    try:
        parse_group(row.get(GROUP, "True"))
    except InputError as error:
        raise RejectError(BAD_GROUP, str(error)) from None
    rows.add(row["id"], row["split"], share, votes, paths, extra)


def _votes(row: Mapping[str, str]) -> tuple[float, int]:
    """(share of the right side, number of votes); raises RejectError."""
    try:
        return parse_votes(row["left_vote"], row["right_vote"], row["votes"])
    except InputError as error:
        raise RejectError(BAD_VOTES, str(error)) from None
