"""Samples without decoding them, on one core: compared with their checksums here, as they come in webdataset."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import webdataset as wds

from pineco.data_pipeline.images.decode import DecodeCounts
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.order import Extents, cut_extents
from pineco.data_pipeline.reading.reader import Members, RowReader
from pineco.data_pipeline.reading.shard_set import ShardOptions, ShardSet, open_shards
from tests.bench.data.figures import Demand, Figure, Result, lower, rates, ratios
from tests.bench.data.rounds import Pipeline, cores, on_cores, take_turns

REQUIRED = 6.0
BATCH = 256
LANES = 1  # so that a set of 512 MB is read in extents of 16 MiB, as a large one is with many lanes
EXTENSIONS = ("jpg", "txt")
Batch = list[Members]
_WHAT = {
    "loader": "this loader without decoding: verified, shuffled, batched",
    "reader": "its reader alone: verified, whole extents in random order",
    "usual": "webdataset without decoding: in file order",
}


class BytesSource:
    """Batches of members as they are."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.reader: RowReader = shards.reader(EXTENSIONS)
        self.decoded = DecodeCounts()  # stays at none

    def __len__(self) -> int:
        return len(self.shards.index)

    def extents(self, lanes: int) -> Extents:
        return cut_extents(self.shards.index.groups_by_shard(), lanes=lanes)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        return samples[:, None]

    def empty(self, samples: int, *, pin: bool) -> Batch:
        return [{}] * samples

    def fill(self, batch: Batch, slot: int, sample: int, epoch: int, rows: Sequence[Members]) -> None:
        batch[slot] = rows[0]


def measure(folder: Path, *, rounds: int, seconds: float) -> Result:
    """L2."""
    source = BytesSource(open_shards(str(folder), ShardOptions(memory=0)))
    with on_cores(cores()[0]):
        turns = take_turns(
            {"loader": loaded(source), "reader": read(source), "usual": usual(folder)},
            rounds=rounds,
            seconds=seconds,
            warm=len(source),
        )
    figures: list[Figure] = []
    for name, what in _WHAT.items():
        figures += rates(f"{what}, samples of 62 KB, one core", turns[name], "samples")
    ratio = {
        name: ratios(f"{_WHAT[name]}, over webdataset", turns[name], turns["usual"]) for name in ("loader", "reader")
    }
    demand = Demand("L2", f"{_WHAT['reader']}, over webdataset, per core", lower(ratio["reader"]), REQUIRED)
    return Result([*figures, *ratio["loader"], *ratio["reader"]], [demand])


def byte_loader(source: BytesSource, settings: LoaderSettings) -> Loader[Batch]:
    return Loader(source, batch_size=BATCH, lanes=LANES, seed=0, settings=settings)


def loaded(source: BytesSource) -> Pipeline:
    """Every member compared with its checksum, in the order of a run."""
    loader = byte_loader(source, LoaderSettings(workers=1))

    def pipeline() -> Generator[int, None, None]:
        with closing(loader.iterate(DataPosition())) as batches:
            for _, batch in batches:
                yield len(batch)

    return pipeline


def read(source: BytesSource) -> Pipeline:
    """Every member compared with its checksum, extent by extent, by one thread."""
    extents, random = source.extents(LANES), np.random.default_rng(0)

    def pipeline() -> Generator[int, None, None]:
        while True:
            for n in random.permutation(len(extents.first)):
                rows = np.arange(extents.first[n], extents.first[n] + extents.size[n])
                yield len(source.reader.read(rows, ahead=True))

    return pipeline


def usual(folder: Path) -> Pipeline:
    """Members as webdataset reads them: file after file, nothing compared."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))

    def pipeline() -> Generator[int, None, None]:
        while True:
            batch = []
            for sample in wds.WebDataset(urls, shardshuffle=False):
                batch.append(sample)
                if len(batch) == BATCH:
                    yield len(batch)
                    batch = []

    return pipeline
