"""From JPEGs and captions in local shards to batches, on one core: this loader against webdataset and Pillow."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import webdataset as wds
from PIL.Image import Image
from torch import Tensor

from pineco.data_pipeline.images.image_text import ImageTextSource, Tokenize
from pineco.data_pipeline.images.transforms import Augmentation
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.reading.shard_set import ShardOptions, open_shards
from tests.bench.data.figures import Demand, Result, lower, rates, ratios
from tests.bench.data.rounds import Pipeline, cores, on_cores, take_turns

REQUIRED = 2.3
SIDE, BATCH, LANES = 224, 64, 8
_AHEAD = 64 << 20  # bytes: some 1000 samples, so that a turn of a second reads about what it decodes
_SHUFFLED = 1000  # samples in webdataset's buffer, full before it yields; in open_clip's settings it grows to 5000

Transform = Callable[[Image], Tensor]


def measure(folder: Path, *, tokenize: Tokenize, transform: Transform, rounds: int, seconds: float) -> Result:
    """L1. transform: open_clip's for training, a PIL image -> (3, 224, 224) float32."""
    with on_cores(cores()[0]):
        turns = take_turns(
            {"ours": ours(image_source(folder, tokenize), workers=1), "usual": usual(folder, tokenize, transform)},
            rounds=rounds,
            seconds=seconds,
            warm=2 * BATCH,
        )
    ratio = ratios("this loader over webdataset + Pillow, 500 x 375 -> 224, one core", turns["ours"], turns["usual"])
    figures = [
        *rates("this loader, 500 x 375 -> 224, one core", turns["ours"], "img"),
        *rates("webdataset + Pillow, 500 x 375 -> 224, one core", turns["usual"], "img"),
        *ratio,
    ]
    return Result(figures, [Demand("L1", "this loader over webdataset + Pillow, per core", lower(ratio), REQUIRED)])


def image_source(folder: Path, tokenize: Tokenize) -> ImageTextSource:
    """The shards of a folder, read anew in every epoch."""
    shards = open_shards(str(folder), ShardOptions(memory=0))
    return ImageTextSource(shards, image_size=SIDE, tokenize=tokenize, seed=0, augmentation=Augmentation())


def ours(source: ImageTextSource, *, workers: int) -> Pipeline:
    """Batches of this loader, from the start of an epoch."""
    settings = LoaderSettings(workers=workers, memory=_AHEAD)
    loader = Loader(source, batch_size=BATCH, lanes=LANES, seed=0, settings=settings)

    def pipeline() -> Generator[int, None, None]:
        with closing(loader.iterate(DataPosition())) as batches:
            for _, batch in batches:
                yield len(batch)

    return pipeline


def usual(folder: Path, tokenize: Tokenize, transform: Transform, *, workers: int = 0) -> Pipeline:
    """Batches of the stages that open_clip's training chains for webdataset; workers: processes."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))

    def pipeline() -> Generator[int, None, None]:
        dataset = wds.DataPipeline(
            wds.ResampledShards(urls),
            wds.tarfile_to_samples(),
            wds.shuffle(_SHUFFLED, initial=_SHUFFLED),
            wds.select(_is_pair),
            wds.decode("pilrgb"),
            wds.rename(image="jpg;png;jpeg;webp", text="txt"),
            wds.map_dict(image=transform, text=lambda text: tokenize([text])[0]),
            wds.to_tuple("image", "text"),
            wds.batched(BATCH, partial=False),
        )
        for images, _ in wds.WebLoader(dataset, batch_size=None, shuffle=False, num_workers=workers):
            yield len(images)

    return pipeline


def _is_pair(sample: dict[str, Any]) -> bool:
    return "txt" in sample and "jpg" in sample
