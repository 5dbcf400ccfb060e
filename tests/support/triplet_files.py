"""Small tables of triplets over image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pineco.data_pipeline.batches import TripletBatch
from pineco.data_pipeline.reading.shard_set import ShardOptions
from pineco.data_pipeline.triplets.source import TripletSource, open_triplets
from pineco.data_pipeline.triplets.table import NIGHTS_COLUMNS, PROMPT
from tests.support.shards import solid

Row = dict[str, object]


def row(i: int, **changes: object) -> Row:
    """Row i: images of colour 3 i, 3 i + 1, 3 i + 2; people say right in every third row."""
    right = changes.get("right_vote", float(i % 3 == 0))
    left = 1 - right if isinstance(right, int | float) else 0
    paths = {f"{side}_path": f"{side}/{i}.png" for side in ("ref", "left", "right")}
    return {"id": i, "left_vote": left, "right_vote": right, "votes": 7, "split": "train"} | paths | changes


def write_triplets(root: Path, rows: list[Row], columns: tuple[str, ...] = NIGHTS_COLUMNS) -> Path:
    for i, side in ((i, side) for i in range(len(rows)) for side in enumerate(("ref", "left", "right"))):
        (root / side[1]).mkdir(parents=True, exist_ok=True)
        (root / side[1] / f"{i}.png").write_bytes(solid(3 * i + side[0], side=10))
    lines = [columns, *([r[c] for c in columns] for r in rows)]
    (root / "data.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return root


def make_source(root: Path, **options: Any) -> TripletSource:
    usual: dict[str, Any] = {"image_size": 8, "split": "train", "min_votes": 6, "seed": 0}
    return TripletSource(*open_triplets(str(root), ShardOptions(memory=0)), **(usual | options))


def load(source: TripletSource, numbers: np.ndarray, epoch: int = 0) -> TripletBatch:
    """These triplets in this order; raises SampleError for a bad one."""
    batch, rows = source.empty(len(numbers), pin=False), source.rows(numbers)
    found = source.reader.read(np.unique(rows))
    for slot, (number, mine) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
        source.fill(batch, slot, number, epoch, [found[row] for row in mine])  # type: ignore[misc]
    return batch


def write_prompts(root: Path, prompts: list[str], **changes: object) -> Path:
    rows = [row(i, right_vote=i / 64) | {PROMPT: prompt} | changes for i, prompt in enumerate(prompts)]
    return write_triplets(root, rows, (*NIGHTS_COLUMNS[:4], PROMPT, *NIGHTS_COLUMNS[4:]))
