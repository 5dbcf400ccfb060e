"""The files of a toy world: workers render the samples, this process alone writes them, in order.

So the bytes of every file are the same whatever the number of workers.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import NamedTuple

from pineco.data_pipeline.processes import processes
from pineco.data_pipeline.progress import BAR, COUNT, LEFT, NAME, Progress
from pineco.data_pipeline.toy_world.samples import (
    TRIPLET_COLUMNS,
    ZERO_SHOT_SETS,
    Maker,
    Sample,
    csv_line,
    dense,
    pair,
    retrieval,
    triplet,
    zero_shot,
)
from pineco.data_pipeline.toy_world.scene import SHAPES
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings

PARTS = ("pairs", "triplets", "wds", "dense", "shards")  # the folders of a world; the last one by streamed.py
_WDS_SHARD = 500  # CLIP_benchmark's limit, whatever shard_size says
_BLOCK = 125  # samples that go to a worker at once: about a tenth of a second of work


class Split(NamedTuple):
    """One folder of samples: pairs/train, wds/toy_shapes, triplets."""

    name: str  # the folder; also seeds its samples
    samples: int
    make: Maker
    shards: str | None = None  # pattern of the archives' names in that folder, None: loose files
    shard_size: int = _WDS_SHARD


class Block(NamedTuple):
    """Samples first to last - 1 of a split, the unit that goes to a worker."""

    split: str
    make: Maker
    first: int
    last: int


def toy_splits(settings: ToyWorldSettings) -> Iterator[Split]:
    """Everything that is rendered, in the order of writing."""
    shards, size = "%05d.tar", settings.shard_size
    yield Split("triplets", settings.triplets, triplet)
    yield Split("pairs/train", settings.train_pairs, pair, shards, size)
    yield Split("pairs/val", settings.val_pairs, pair, shards, size)
    yield Split("dense/train", settings.dense_train, dense, shards, size)
    yield Split("dense/test", settings.dense_test, dense, shards, size)
    for name in ZERO_SHOT_SETS:
        yield Split(f"wds/{name}", settings.test_images, zero_shot, "test/%d.tar")
    yield Split("wds/toy_retrieval", settings.retrieval_images, retrieval, "test/%d.tar")


def _blocks(split: Split) -> list[Block]:
    return [
        Block(split.name, split.make, first, min(first + _BLOCK, split.samples))
        for first in range(0, split.samples, _BLOCK)
    ]


def _make(settings: ToyWorldSettings, block: Block) -> list[Sample]:
    """Render one block; runs in a worker."""
    return [block.make(settings, block.split, index) for index in range(block.first, block.last)]


@contextmanager
def _rendered(settings: ToyWorldSettings, blocks: list[Block], workers: int) -> Iterator[Iterator[list[Sample]]]:
    """The samples of each block, in order; the workers start at once and stop with the context."""
    make = partial(_make, settings)
    if workers == 1:
        yield map(make, blocks)
        return
    killed = "toy world: a worker was killed, perhaps for its memory; start again, with fewer workers"
    with processes(min(workers, len(blocks)), killed=killed, fork=True) as pool:
        yield pool.map(make, blocks)


def _write_shards(pattern: Path, shard_size: int, samples: Iterable[Sample]) -> None:
    """Archives whose bytes depend on nothing but the samples: no time, no user, no limit in bytes."""
    from webdataset import ShardWriter  # imports torch, five seconds; the workers are rendering meanwhile

    folder = pattern.absolute().parent  # absolute: in "pipe:x", webdataset would see a command
    folder.mkdir(parents=True)
    fixed = {"encoder": False, "mtime": 0, "user": "", "group": ""}
    escaped = f"{str(folder).replace('%', '%%')}/{pattern.name}"
    with ShardWriter(escaped, maxcount=shard_size, maxsize=math.inf, verbose=0, **fixed) as sink:
        for key, files in samples:
            sink.write({"__key__": key, **files})


def _write_triplets(folder: Path, samples: Iterable[Sample]) -> None:
    """data.csv, and an image per file in ref, left and right, as NIGHTS has them."""
    for side in ("ref", "left", "right"):
        (folder / side).mkdir(parents=True)
    with (folder / "data.csv").open("wb") as table:
        table.write(csv_line(TRIPLET_COLUMNS))
        for key, files in samples:
            for side in ("ref", "left", "right"):
                (folder / side / f"{key}.jpg").write_bytes(files[f"{side}.jpg"])
            table.write(files["csv"])


def _texts(settings: ToyWorldSettings) -> dict[str, str]:
    """The small text files: names, templates, numbers of shards."""
    texts = {"dense/classes.txt": "\n".join(("background", *SHAPES))}
    for name, kind in ZERO_SHOT_SETS.items():
        texts[f"wds/{name}/test/nshards.txt"] = str(math.ceil(settings.test_images / _WDS_SHARD))
        texts[f"wds/{name}/classnames.txt"] = "\n".join(kind.classnames)
        texts[f"wds/{name}/zeroshot_classification_templates.txt"] = "\n".join(kind.templates)
    texts["wds/toy_retrieval/test/nshards.txt"] = str(math.ceil(settings.retrieval_images / _WDS_SHARD))
    texts["wds/toy_retrieval/dataset_type.txt"] = "retrieval"
    return texts


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Iterable[Sample]], Iterable[Sample]]]:
    """Wraps the samples on their way to the writer, a bar for people, nothing for log files."""
    numbers = count(1)
    with Progress(NAME, BAR, COUNT, LEFT, show=sys.stderr.isatty(), transient=True) as progress:

        def counted(samples: Iterable[Sample]) -> Iterator[Sample]:
            for sample in samples:
                yield sample
                done = next(numbers)
                progress.update("toy world", done, total, f"toy world: {done:,} of {total:,} samples")

        yield counted


def write_files(root: Path, settings: ToyWorldSettings, workers: int) -> None:
    """Write every part of the world into root, where none of them may exist."""
    splits = list(toy_splits(settings))
    blocks = [_blocks(split) for split in splits]
    total = sum(split.samples for split in splits)
    with _rendered(settings, list(chain(*blocks)), workers) as made, _progress(total) as counted:
        for split, own in zip(splits, blocks, strict=True):
            samples = counted(chain.from_iterable(islice(made, len(own))))
            if split.shards is None:
                _write_triplets(root / split.name, samples)
            else:
                _write_shards(root / split.name / split.shards, split.shard_size, samples)
    for path, text in _texts(settings).items():
        (root / path).write_bytes(text.encode())
