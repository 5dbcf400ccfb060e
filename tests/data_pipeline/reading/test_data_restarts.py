"""Stopping and going on: the same batch from every position, at its own cost, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pineco.data_pipeline.batches import ImageTextBatch
from pineco.data_pipeline.images.image_text import ImageTextSource
from pineco.data_pipeline.images.transforms import Augmentation
from pineco.data_pipeline.index import open_index
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.reading.shard_set import ShardOptions, ShardSet, open_shards
from tests.support.buckets import ROOT, Bucket, serve
from tests.support.shards import encode, natural_image, write_shard
from tests.support.sources import Bytes, BytesSource, bytes_loader, read_in_child

LANES, BATCH = 8, 16


def write_shards(folder: Path, shards: int, samples: int, size: int) -> Path:
    """Shards of random bytes as jpg, and a txt of some bytes."""
    draw = random.Random(0)
    for number in range(shards):
        files = []
        for i in range(samples):
            files += [(f"{i:03}.jpg", draw.randbytes(size)), (f"{i:03}.txt", b"number %d" % i)]
        write_shard(folder / f"{number}.tar", files)
    return folder


def make_loader(source: Any, *, rank: int = 0, world: int = 1, **options: Any) -> Loader[Any]:
    settings = LoaderSettings(**{"connections": 2, "prefetch": 0} | options)
    return Loader(source, batch_size=BATCH, lanes=LANES, seed=2, rank=rank, world=world, settings=settings)


def first_batch(loader: Loader[Any], start: DataPosition) -> Any:
    batches = loader.iterate(start)
    try:
        return next(batches)[1]
    finally:
        batches.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 200 pairs of small pictures and captions."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = [encode(Image.fromarray(natural_image(20, 24, i)), "JPEG") for i in range(40)]
    for number in range(3):
        files = []
        for i in range(200):
            text = b'{"captions": ["takes %d", "takes %d"]}' % (2 * i, 2 * i + 1)
            files += [(f"{i:03}.jpg", pictures[i % 40]), (f"{i:03}.json", text)]
        write_shard(folder / f"{number}.tar", files)
    return folder


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[int((text.split() or ["0"])[-1])] for text in texts])


def photo_source(folder: Path, memory: int) -> ImageTextSource:
    augmentation = Augmentation(crop_scale=(0.3, 1.0), flip=0.5)
    shards = open_shards(str(folder), ShardOptions(memory=memory))
    return ImageTextSource(shards, image_size=12, tokenize=tokenize, seed=2, augmentation=augmentation, captions="any")


def test_two_hundred_resumed_runs(photos: Path) -> None:
    """D7: a run that went on, with other ranks or threads, would see other crops, captions or samples."""
    sources = [photo_source(photos, memory) for memory in (0, 1 << 30)]
    batches = make_loader(sources[0], workers=2).iterate(DataPosition())
    whole: list[ImageTextBatch] = [batch for _, batch in islice(batches, 100)]
    batches.close()
    epoch_length, draw = make_loader(sources[0]).batches_per_epoch, random.Random(7)
    assert epoch_length == 37
    for n in range(200):
        t, world = draw.randrange(100), draw.choice([1, 2, 4, 8])
        start = DataPosition(*divmod(t, epoch_length))
        options = {"workers": draw.randint(1, 4), "memory": draw.choice([0, 1 << 30])}
        parts = [
            first_batch(make_loader(sources[n % 2], rank=rank, world=world, **options), start) for rank in range(world)
        ]
        for field in ("images", "tokens", "samples"):
            got = torch.cat([getattr(part, field) for part in parts])
            assert torch.equal(got, getattr(whole[t], field)), (t, world, options)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with serve(tmp_path / "server") as bucket:
        yield bucket


def test_the_first_batch_costs_the_same_at_every_position(bucket: Bucket) -> None:
    """D7: the later in an epoch a run is resumed, the more it would read for nothing."""
    write_shards(bucket.folder, shards=6, samples=80, size=5000)
    index = open_index(bucket.local())
    of_a_batch = BATCH * (5000 + 8)
    costs = set()
    for t in (0, 1, 7, 14, 22, 29):
        store = bucket.store()
        source = BytesSource(ShardSet(store, index, ShardOptions(memory=0)), ("jpg", "txt"))
        loader = make_loader(source, memory=1)  # nothing is read ahead, so all that is read is waited for
        bucket.break_by()
        batch: Bytes = first_batch(loader, DataPosition(0, t))
        assert sum(len(data) for _, members in batch for data in members.values()) >= of_a_batch
        assert bucket.gets == BATCH == loader.stats.read.reads
        assert store.counters.bytes == loader.stats.read.bytes
        costs.add(loader.stats.read.bytes // 1000)
        assert loader.stats.read.bytes <= 1.2 * of_a_batch
    assert len(costs) == 1


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def shared_memory() -> int:
    """Pieces of it that this process holds; the folder itself has those of others, too."""
    return Path("/proc/self/maps").read_text().count("/dev/shm/")


def restart(loader: Loader[Any], times: int) -> None:
    for n in range(times):
        batches = loader.iterate(DataPosition(0, n % loader.batches_per_epoch))
        for _ in range(n % 3):
            next(batches)
        batches.close() if n % 2 else None  # the others are left to the garbage collector, as after an error
        del batches


def test_a_thousand_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    """D10: a run of weeks with an evaluation an hour would end by having no files, threads or memory left."""
    source = BytesSource(open_shards(str(write_shards(tmp_path, 4, 60, 3000)), ShardOptions(memory=0)), ("jpg", "txt"))
    loader = make_loader(source, prefetch=1, memory=1 << 20)
    restart(loader, 200)
    gc.collect()
    before = (threading.active_count(), descriptors(), shared_memory())
    memory = resident_bytes()
    restart(loader, 1000)
    gc.collect()
    assert (threading.active_count(), descriptors(), shared_memory()) == before
    assert resident_bytes() <= memory * 1.02 + (1 << 20)


def test_ten_epochs_leave_nothing_behind(tmp_path: Path) -> None:
    """D10: every epoch would cost memory, until the node has none."""
    folder = write_shards(tmp_path, 4, 100, 3000)
    for memory in (0, 1 << 30):  # streamed, and kept
        loader = make_loader(BytesSource(open_shards(str(folder), ShardOptions(memory=memory)), ("jpg", "txt")))
        left = []
        for _ in range(2):
            batches = loader.iterate(DataPosition())
            for _ in range(10 * loader.batches_per_epoch):
                next(batches)
            batches.close()
            gc.collect()
            left.append((threading.active_count(), descriptors(), resident_bytes()))
        assert left[0][:2] == left[1][:2]
        assert left[1][2] <= left[0][2] * 1.02 + (1 << 20)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_reads_from_the_bucket(bucket: Bucket, method: str) -> None:
    """D10: a child that was started after the bucket was read would share connections, or hang in a lock."""
    write_shards(bucket.folder, 3, 40, 2000)
    batches = bytes_loader(ROOT).iterate(DataPosition())
    mine = [next(batches)[1] for _ in range(2)]
    context: Any = multiprocessing.get_context(method)  # the stubs know Process only by the method's name
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=read_in_child, args=(sender, ROOT, 5))
    child.start()
    sender.close()  # so that the end of a child that failed is noticed
    assert receiver.poll(60), "the child hangs"
    theirs = receiver.recv()
    child.join(60)
    assert child.exitcode == 0
    mine += [next(batches)[1] for _ in range(3)]  # the parent's connections still work
    assert mine == theirs
    batches.close()
