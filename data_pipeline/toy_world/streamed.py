"""A toy world ready to be streamed: its shards indexed where they lie, its triplets as shards, too."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.index import build_index
from data_pipeline.prepare.destination import Destination
from data_pipeline.prepare.images import ImageRules
from data_pipeline.prepare.nights import open_nights
from data_pipeline.prepare.run import run

INDEXED = ("pairs/train", "pairs/val")
TRIPLETS, TRIPLET_SHARDS = "triplets", "shards/triplets"
_IMAGES = 1000  # of a shard of triplets


def make_streamable(root: Path, workers: int) -> None:
    """Writes the indexes, and the shards of the triplets."""
    root = root.absolute()  # a folder called "pipe:x" is refused where it begins the path
    for folder in INDEXED:
        build_index(root / folder, workers=1)
    job = open_nights((root / TRIPLETS).resolve(), ImageRules(), _IMAGES, workers)
    run(job, Destination(str(root / TRIPLET_SHARDS)), workers)
