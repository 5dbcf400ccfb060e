"""Faults from end to end: what a network, a disk or a writer of shards does changes no sample, or is named."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pineco.data_pipeline.batches import ImageTextBatch
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.image_text import ImageTextSource
from pineco.data_pipeline.images.transforms import Augmentation
from pineco.data_pipeline.index import open_index
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.order import EpochOrder, cut_extents
from pineco.data_pipeline.reading.quarantine import read_ledger, substitute
from pineco.data_pipeline.reading.shard_set import ShardOptions, ShardSet, open_shards
from pineco.data_pipeline.stores.cache import HEADER, DiskCache
from pineco.data_pipeline.stores.store import Store
from tests.support.buckets import PATIENT, QUICK, Bucket, serve
from tests.support.shards import solid, write_shard
from tests.support.sources import Bytes, BytesSource

SAMPLES, BATCH = 96, 8  # in four shards


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    draw = random.Random(0)
    with serve(tmp_path / "server") as bucket:
        for number in range(4):
            files = []
            for i in range(SAMPLES // 4):
                files += [(f"{i:03}.jpg", draw.randbytes(draw.randint(1000, 4000))), (f"{i:03}.txt", b"%d" % i)]
            write_shard(bucket.folder / f"{number}.tar", files)
        yield bucket


def make_source(bucket: Bucket, store: Store, cache: DiskCache | None = None) -> BytesSource:
    """Not kept in memory; the index is that of the files, so that opening it asks the server for nothing."""
    shards = ShardSet(store, open_index(bucket.local()), ShardOptions(memory=0, cache=cache))
    return BytesSource(shards, ("jpg", "txt"))


def make_loader(source: BytesSource, **options: Any) -> Loader[Bytes]:
    settings = LoaderSettings(**{"connections": 4, "prefetch": 2} | options)
    return Loader(source, batch_size=BATCH, lanes=4, seed=1, settings=settings)


def read_epoch(loader: Loader[Bytes], batches: int | None = None) -> list[Bytes]:
    found = loader.iterate(DataPosition())
    try:
        return [batch for _, batch in islice(found, batches or loader.batches_per_epoch)]
    finally:
        found.close()


@pytest.fixture
def reference(bucket: Bucket) -> list[Bytes]:
    """The epoch as it lies on the disk."""
    found = read_epoch(make_loader(make_source(bucket, bucket.local())))
    assert sorted(sample for batch in found for sample, _ in batch) == list(range(SAMPLES))
    assert all(len(members["jpg"]) >= 1000 for batch in found for _, members in batch)
    return found


PASSING: dict[str, dict[str, Any]] = {
    "reset": {"action": "reset", "value": 700, "probability": 0.3},
    "reset before the head": {"action": "reset", "value": -1, "nth": 3},
    "cut": {"action": "cut", "value": 700, "probability": 0.3},
    "cut at the first byte": {"action": "cut", "value": 0, "nth": 2},
    "stall": {"action": "stall", "value": 500, "nth": 4},
    "stall before the head": {"action": "stall", "value": -1, "nth": 9},
    "500": {"action": "status", "value": 500, "nth": 5},
    "503": {"action": "status", "value": 503, "probability": 0.3},
    "wrong Content-Range": {"action": "content_range", "nth": 3},
    "range ignored": {"action": "ignore_range", "probability": 0.2},
}


SINGLY, BY_RUNS = 0, 1 << 30  # memory of the loader
OFTEN = [rule for rule in PASSING.values() if "probability" in rule]


@pytest.mark.parametrize(
    ("rule", "memory"), [*((rule, SINGLY) for rule in PASSING.values()), *((rule, BY_RUNS) for rule in OFTEN)]
)
def test_a_passing_fault_changes_no_sample(
    bucket: Bucket, reference: list[Bytes], rule: dict[str, Any], memory: int
) -> None:
    """D3: an epoch over a real network would lose samples, see some twice, or hold parts of them."""
    settings = QUICK if rule["action"] == "stall" else PATIENT
    loader = make_loader(make_source(bucket, bucket.store(settings)), memory=memory)
    bucket.break_by(rule)
    assert read_epoch(loader) == reference
    assert {fault.action for fault in bucket.proxy.fired} == {rule["action"]}
    assert loader.stats.read.retries >= 1
    assert (loader.stats.quarantined, loader.stats.read.repaired) == (0, 0)


def test_a_drip_is_cut_and_gone_on_with(bucket: Bucket, reference: list[Bytes]) -> None:
    """D3: one bad connection would hold a batch, and with it every rank, for hours."""
    settings = replace(PATIENT, read_timeout=0.2, min_rate=50_000)
    loader = make_loader(make_source(bucket, bucket.store(settings)))
    bucket.break_by({"action": "rate", "value": 1000, "nth": 2})
    assert read_epoch(loader) == reference
    assert len(bucket.proxy.fired) == 1
    assert loader.stats.read.retries >= 1


def test_bytes_that_change_on_the_wire_are_read_again(bucket: Bucket, reference: list[Bytes]) -> None:
    """D3: TCP's sum lets one of 65,536 damaged packets through: its sample would be trained on, or lost."""
    loader = make_loader(make_source(bucket, bucket.store()))
    bucket.break_by(*({"action": "flip", "value": 600, "nth": nth} for nth in (2, 30)))
    assert read_epoch(loader, 30)[: len(reference)] == reference
    assert [fault.action for fault in bucket.proxy.fired] == ["flip", "flip"]
    assert (loader.stats.read.repaired, loader.stats.quarantined) == (2, 0)


def test_bytes_that_are_wrong_in_the_bucket_are_quarantined(
    bucket: Bucket, reference: list[Bytes], tmp_path: Path
) -> None:
    """D2: a shard that was damaged in the bucket would be trained on, or fetched again without end."""
    source = make_source(bucket, bucket.store())  # the index is that of the good shard
    with (bucket.folder / "2.tar").open("r+b") as shard:
        shard.seek(700)
        shard.write(bytes([shard.read(1)[0] ^ 1]))
    loader = make_loader(source, ledger=tmp_path / "rank.jsonl", prefetch=0)
    bucket.break_by()
    found = read_epoch(loader)
    (row,) = read_ledger(tmp_path / "rank.jsonl")
    bad = SAMPLES // 2
    assert row == {"epoch": 0, "sample": bad, "shard": "s3://bucket/data/2.tar", "key": "000", "offset": 512} | {
        "reason": ".jpg: its bytes are not those that were indexed (crc32)"
    }
    other = substitute(1, 0, bad, 0, SAMPLES)
    everything = {sample: members for batch in reference for sample, members in batch}
    assert found == [[(other, everything[other]) if s == bad else (s, m) for s, m in batch] for batch in reference]


FATAL: dict[str, tuple[dict[str, Any], str]] = {
    "403": ({"action": "status", "value": 403}, r"status 403 .*AWS_ACCESS_KEY_ID"),
    "404": ({"action": "status", "value": 404}, r"status 404 .*check the name"),
    "another ETag": ({"action": "etag"}, "the object changed while it was read"),
    "301": ({"action": "redirect", "value": "http://127.0.0.1:1"}, "not redirected"),
}


@pytest.mark.parametrize(("rule", "message"), FATAL.values(), ids=FATAL)
def test_a_fault_that_will_not_pass_stops_the_run(
    bucket: Bucket, reference: list[Bytes], rule: dict[str, Any], message: str
) -> None:
    """D3: every GPU would wait for retries of what is not allowed, or train on two versions of the data."""
    loader = make_loader(make_source(bucket, bucket.store()), memory=0)
    batches = loader.iterate(DataPosition())
    assert [batch for _, batch in islice(batches, 3)] == reference[:3]
    bucket.break_by(rule)
    with pytest.raises(InputError, match=rf"^s3://bucket/data/\d\.tar: .*{message}") as caught:
        list(islice(batches, 12))
    assert "\n" not in str(caught.value)
    assert 1 <= len(bucket.proxy.fired) <= 3 * BATCH  # what was asked for ahead, each once
    assert loader.stats.read.retries == 0


def test_a_shard_that_is_replaced_stops_the_run(bucket: Bucket, reference: list[Bytes]) -> None:
    """D3: an epoch would mix the samples of two versions, at the offsets of one."""
    store = bucket.store()
    store.list_shards()
    batches = make_loader(make_source(bucket, store), memory=0).iterate(DataPosition())
    assert next(batches)[1] == reference[0]
    data = (bucket.folder / "1.tar").read_bytes()
    (bucket.folder / "1.tar").unlink()
    (bucket.folder / "1.tar").write_bytes(data[::-1])
    with pytest.raises(InputError, match=r"1\.tar: the object changed while it was read") as caught:
        list(islice(batches, 12))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory", [SINGLY, BY_RUNS])
def test_an_outage_pauses_the_run(bucket: Bucket, reference: list[Bytes], memory: int) -> None:
    """D4: a service that is away for minutes would end the run, or leave holes in the epoch."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 60:  # over all connections; here the service comes back
            bucket.proxy.set_rules([])

    settings = replace(PATIENT, tries=100)
    loader = make_loader(make_source(bucket, bucket.store(settings, sleep=sleep)), memory=memory)
    batches = loader.iterate(DataPosition())
    first = next(batches)[1]
    bucket.break_by({"action": "status", "value": 503, "key": "*"})
    rest = [batch for _, batch in islice(batches, loader.batches_per_epoch - 1)]
    if len(pauses) < 60:  # all of the epoch was on its way before the outage: the next one meets it
        assert memory
        list(islice(batches, loader.batches_per_epoch))
    batches.close()
    assert [first, *rest] == reference
    assert len(bucket.proxy.fired) >= 60
    assert sum(pauses) > 10
    assert loader.stats.quarantined == 0


def test_an_outage_without_end_stops_the_run_with_one_line(bucket: Bucket) -> None:
    """D4: the job would hold its GPUs for ever; or closing it would wait for what never comes."""
    loader = make_loader(make_source(bucket, bucket.store()))
    bucket.break_by({"action": "status", "value": 503})
    with pytest.raises(InputError, match=rf"gave up after {PATIENT.tries} tries, at last: status 503") as caught:
        read_epoch(loader)
    assert "\n" not in str(caught.value)
    assert len(bucket.proxy.fired) >= PATIENT.tries


@pytest.fixture
def cache_folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def with_cache(bucket: Bucket, folder: Path, limit: int = 1 << 24) -> Loader[Bytes]:
    return make_loader(make_source(bucket, bucket.store(), DiskCache(folder, limit)))


def cache_of(loader: Loader[Bytes]) -> DiskCache:
    assert isinstance(loader.source, BytesSource)
    cache = loader.source.shards.options.cache
    assert cache is not None
    return cache


def fill_cache(bucket: Bucket, folder: Path) -> None:
    """Reads until every group was read ahead once; a group that batches asked for sample by sample comes later."""
    batches = with_cache(bucket, folder).iterate(DataPosition())
    while len(entries(folder)) < 4:
        next(batches)
    batches.close()


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if len(path.name) == 64] if folder.is_dir() else []


def test_a_second_job_reads_nothing_from_the_bucket(bucket: Bucket, reference: list[Bytes], cache_folder: Path) -> None:
    """D5: every epoch and every job of a node would fetch the data set anew."""
    fill_cache(bucket, cache_folder)
    bucket.break_by()
    loader = with_cache(bucket, cache_folder)
    assert read_epoch(loader, 30)[: len(reference)] == reference
    assert bucket.gets == 0
    assert (loader.stats.read.bytes, loader.stats.read.reads, loader.stats.read.cache_misses) == (0, 0, 0)
    assert loader.stats.read.cache_hits > 0


def test_two_jobs_share_a_cache(bucket: Bucket, reference: list[Bytes], cache_folder: Path) -> None:
    """D5: jobs that start together would read each other's unfinished entries."""
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(lambda: read_epoch(with_cache(bucket, cache_folder), 20)) for _ in range(3)]
        assert all(job.result(60)[: len(reference)] == reference for job in jobs)
    assert len(entries(cache_folder)) == 4


def test_a_tampered_cache_is_noticed(bucket: Bucket, reference: list[Bytes], cache_folder: Path) -> None:
    """D5: whoever may write to the cache, or a failing disk, would decide what is trained on."""
    fill_cache(bucket, cache_folder)
    for path in entries(cache_folder):
        data = bytearray(path.read_bytes())
        for at in range(HEADER.size, len(data), 997):
            data[at] ^= 1
        path.write_bytes(data)
    bucket.break_by()
    loader = with_cache(bucket, cache_folder)
    assert read_epoch(loader) == reference
    assert loader.stats.read.repaired >= 4
    assert cache_of(loader).counters.damaged == 4
    assert bucket.gets >= 4
    assert loader.stats.quarantined == 0


def test_a_cache_of_one_shard_changes_no_sample(bucket: Bucket, reference: list[Bytes], cache_folder: Path) -> None:
    """D5: entries that make room for others would be missed in the middle of a read."""
    limit = int(1.5 * (bucket.folder / "0.tar").stat().st_size)
    loader = with_cache(bucket, cache_folder, limit)
    assert read_epoch(loader, 30)[: len(reference)] == reference
    assert cache_of(loader).counters.evicted > 0


def test_a_shard_that_was_cut_stops_the_run(bucket: Bucket, tmp_path: Path) -> None:
    """D1: the epoch would be a short one, or be made of substitutes for the rest of a shard."""
    source = make_source(bucket, bucket.local())
    with (bucket.folder / "2.tar").open("r+b") as shard:
        shard.truncate(20_000)
    ledger = tmp_path / "rank.jsonl"
    loader = make_loader(source, ledger=ledger, bad_share=1.0, bad_per_shard=5)
    message = r"2\.tar: \d+ bad samples \(limit 5 a shard\), at last \(name lost\) at byte \d+: \."
    with pytest.raises(InputError, match=message) as caught:
        read_epoch(loader)
    assert "\n" not in str(caught.value)
    rows = read_ledger(ledger)
    assert 6 <= len(rows) <= 6 + 2  # two threads may find one each at the same time
    assert {row["shard"] for row in rows} == {str(bucket.folder / "2.tar")}
    enough = make_loader(source, ledger=tmp_path / "other.jsonl", bad_share=1.0, bad_per_shard=24, prefetch=0)
    found = [sample for batch in read_epoch(enough) for sample, _ in batch]
    bad = {row["sample"] for row in read_ledger(tmp_path / "other.jsonl")}
    assert len(found) == SAMPLES
    assert set(found) | bad == set(range(SAMPLES))
    assert not set(found) & bad


# D6: shards as people have them, and what is wrong with some of their samples.
UNEVEN_BATCH = 12
UNEVEN = (1, 0, 500, 7, 60)
BAD = {
    3: ({"png": solid(3)}, "lacks a .txt"),
    4: ({"jpg": b"", "txt": b"number 4"}, ".jpg: not a JPEG, PNG or WebP image (0 bytes"),
    5: ({"png": solid(5), "txt": "café 5".encode("latin-1")}, ".txt: no UTF-8 text"),
    6: ({"txt": b"number 6"}, "lacks an image"),
    7: ({"png": solid(7)[:-25], "txt": b"number 7"}, ".png: damaged image"),
}  # by place in the last shard


def write_uneven(root: Path) -> tuple[int, dict[int, str]]:
    """(samples, reason by sample number of the bad ones); the shard of seven holds keys twice."""
    bad, first = {}, 0
    for number, count in enumerate(UNEVEN):
        files = []
        for i in range(count):
            members = {"png": solid((first + i) % 256), "txt": b"number %d" % (first + i)}
            if count == 60 and i in BAD:
                members, bad[first + i] = BAD[i][0], BAD[i][1]
            key = f"{i // 2:03}" if count == 7 else f"{i:03}"
            files += [(f"{key}.{extension}", data) for extension, data in members.items()]
        write_shard(root / f"{number}.tar", files)
        first += count
    return first, bad


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[int((text.split() or ["0"])[-1])] for text in texts])


def uneven_source(root: Path) -> ImageTextSource:
    shards = open_shards(str(root), ShardOptions(memory=0))
    return ImageTextSource(shards, image_size=8, tokenize=tokenize, seed=0, augmentation=Augmentation())


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_uneven_shards_with_bad_samples(tmp_path: Path, world: int, workers: int) -> None:
    """D6: ranks would take different numbers of steps and hang, samples would be seen twice or never."""
    samples, reasons = write_uneven(tmp_path / "shards")
    assert (samples, len(reasons)) == (568, 5)
    ranks, rows = [], []
    for rank in range(world):
        ledger = tmp_path / f"{rank}.jsonl"
        settings = LoaderSettings(workers=workers, connections=2, prefetch=0, bad_share=0.1, ledger=ledger)
        loader = Loader(
            uneven_source(tmp_path / "shards"),
            batch_size=UNEVEN_BATCH,
            lanes=4,
            seed=0,
            rank=rank,
            world=world,
            settings=settings,
        )
        batches = loader.iterate(DataPosition())
        ranks.append([next(batches)[1] for _ in range(loader.batches_per_epoch)])
        batches.close()
        rows += read_ledger(ledger) if ledger.is_file() else []
    assert {len(found) for found in ranks} == {samples // UNEVEN_BATCH}
    check_uneven(ranks, reasons, rows)


def check_uneven(ranks: list[list[ImageTextBatch]], reasons: dict[int, str], rows: list[dict[str, Any]]) -> None:
    """Every batch is that of the order with each bad sample replaced; the ledger names the bad ones and no other."""
    groups = [np.array([count] if count else [], np.int64) for count in UNEVEN]
    source_order = EpochOrder(cut_extents(groups, lanes=4), seed=0, epoch=0, lanes=4)
    taken, written = set(), set()
    for t, parts in enumerate(zip(*ranks, strict=True)):
        wanted = source_order.batch(t, UNEVEN_BATCH).tolist()
        taken |= set(wanted)
        for place, sample in enumerate(wanted):
            attempt, chosen = 0, sample
            while chosen in reasons:
                written.add(chosen)
                chosen, attempt = substitute(0, 0, sample, attempt, 568), attempt + 1
            wanted[place] = chosen
        assert [n for part in parts for n in part.samples.tolist()] == wanted
        assert [n for part in parts for n in part.tokens[:, 0].tolist()] == wanted
        assert [n for part in parts for n in part.images[:, 0, 0, 0].tolist()] == [n % 256 for n in wanted]
    assert len(taken) == 568 // UNEVEN_BATCH * UNEVEN_BATCH
    assert {row["sample"] for row in rows} == written == set(reasons) & (taken | written)
    for row in rows:
        assert row["reason"].startswith(reasons[row["sample"]])
        assert (Path(row["shard"]).name, row["key"]) == ("4.tar", f"{row['sample'] - 508:03}")
