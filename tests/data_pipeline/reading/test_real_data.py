"""The readers on small real data, where PINECO_DATA names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pineco.data_pipeline.images.image_text import ImageTextSource
from pineco.data_pipeline.images.transforms import Augmentation
from pineco.data_pipeline.index import read_samples
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.reading.reader import SampleError
from pineco.data_pipeline.reading.shard_set import open_shards
from pineco.data_pipeline.triplets.source import TripletSource, open_triplets
from pineco.evals.data.datasets import read_examples, resolve_tasks


def test_flickr8k_loads_photos_with_their_captions(real_data: Path) -> None:
    """What img2dataset writes would not load, or captions would belong to other photos."""
    said: list[str] = []

    def remember(texts: list[str]) -> torch.Tensor:
        said.extend(texts)
        return torch.zeros(len(texts), 4, dtype=torch.int64)

    folder = real_data / "pairs" / "flickr8k" / "dev"
    source = ImageTextSource(
        open_shards(str(folder)), image_size=64, tokenize=remember, seed=0, augmentation=Augmentation()
    )
    assert len(source) == 1000
    numbers = np.array([0, 499, 500, 999])
    batch, found = source.empty(4, pin=False), source.reader.read(numbers)
    said.clear()
    for slot, number in enumerate(numbers.tolist()):
        members = found[number]
        assert not isinstance(members, SampleError)
        source.fill(batch, slot, number, 0, [members])
    texts = [
        members["txt"].decode() for shard in ("00000.tar", "00001.tar") for _, members in read_samples(folder / shard)
    ]
    assert said == [texts[n] for n in numbers]
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.float().std() > 20


def test_materials_keep_the_rows_that_their_threshold_says(real_data: Path) -> None:
    """NIGHTS' threshold of six votes would silently leave next to nothing of this set."""
    table, reader = open_triplets(str(real_data / "triplets" / "materials"))
    kept = {
        votes: len(TripletSource(table, reader, image_size=32, split="train", min_votes=votes, seed=0))
        for votes in (2, 3)
    }
    assert kept[2] == 8000
    assert 0 < kept[3] <= 8000


def test_an_epoch_of_photos_and_captions_has_no_bad_sample(real_data: Path, tmp_path: Path) -> None:
    """Good photos would be replaced by others, or end the run; some would be seen twice or never."""
    source = ImageTextSource(
        open_shards(str(real_data / "pairs" / "flickr8k" / "dev")),
        image_size=32,
        tokenize=lambda texts: torch.zeros(len(texts), 4, dtype=torch.int64),
        seed=0,
        augmentation=Augmentation(),
        captions="any",
    )
    loader = Loader(source, batch_size=40, lanes=8, seed=0, settings=LoaderSettings(ledger=tmp_path / "rank.jsonl"))
    batches = loader.iterate(DataPosition())
    seen = [n for _ in range(loader.batches_per_epoch) for n in next(batches)[1].samples.tolist()]
    batches.close()
    assert sorted(seen) == list(range(1000))
    assert (loader.stats.quarantined, loader.stats.read.repaired) == (0, 0)


def test_benchmark_folders_are_read_whole(real_data: Path) -> None:
    """A benchmark would be measured on a part of its images."""
    tasks = resolve_tasks(real_data / "wds", "cifar10,mnist,dtd10,flickr8k,imagenet1k_sample")
    counts = {task.key: sum(1 for _ in read_examples(folder)) for task, folder in tasks}
    assert counts == {"cifar10": 2000, "mnist": 2000, "dtd10": 400, "flickr8k": 1000, "imagenet1k_sample": 1000}
