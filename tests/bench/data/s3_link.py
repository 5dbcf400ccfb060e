"""Shards over a slow link: an S3 server behind a proxy that adds latency and holds a rate, on a core of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import GROUP_BYTES, Index
from pineco.data_pipeline.loader import DataPosition, LoaderSettings
from pineco.data_pipeline.reading.shard_set import ShardOptions, ShardSet, open_shards
from pineco.data_pipeline.stores.s3 import S3Store
from tests.bench.data.figures import Demand, Figure, Result
from tests.bench.data.plain_http import fetch
from tests.bench.data.reading import BATCH, BytesSource, byte_loader
from tests.bench.data.rounds import cores, on_cores
from tests.bench.data.shards import SAMPLE_BYTES

LATENCY = 0.03  # seconds, of every request
CONNECTIONS, MORE = 16, 32  # a batch of 256 small ranges takes 16 round trips over 16 connections: 0.48 s by itself
SHARE, FIRST_BATCH = 0.9, 0.5 + 2 * LATENCY  # of the link's rate; seconds
_REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Visit:
    """One client's time at the link."""

    first_batch: float  # seconds until 256 samples from all over the shards are there
    share: float  # of the link's rate, by bytes received after that
    cpu: float  # seconds of computing, of every second after that


def measure(folder: Path, *, mega_bytes: int, rounds: int, seconds: float) -> Result:
    """L3. mega_bytes: per second, of the link; folder: shards that the server gives out as a bucket."""
    index, rate = open_shards(str(folder), ShardOptions(memory=0)).index, mega_bytes * 1e6
    ours, plain, sooner = [], [], []
    with slow_link(folder, rate=rate) as url, on_cores(cores()[0]):
        for _ in range(rounds):
            plain.append(plain_visit(f"{url}/{folder.name}", folder, rate=rate))
            ours.append(visit(folder.name, index, rate=rate, seconds=seconds))
            sooner.append(visit(folder.name, index, rate=rate, seconds=0, connections=MORE).first_batch)
    what = f"S3, {LATENCY * 1e3:.0f} ms, {mega_bytes} MB/s"
    figures = _figures(f"{what}, {CONNECTIONS} connections", ours)
    first = Figure(f"{what}, {MORE} connections: first {BATCH} samples of 62 KB", "s", tuple(sooner))
    demands = [
        Demand("L3", figures[0].what, figures[0].median, SHARE),
        Demand("L3", first.what, first.median, FIRST_BATCH, at_most=True),
    ]
    return Result([*figures, first, *_figures(f"bare HTTP, {what}, {CONNECTIONS} connections", plain)], demands)


def _figures(what: str, visits: Sequence[Visit]) -> list[Figure]:
    return [
        Figure(f"{what}: share of the link", "of 1", tuple(v.share for v in visits)),
        Figure(f"{what}: first {BATCH} samples of 62 KB", "s", tuple(v.first_batch for v in visits)),
        Figure(f"{what}: computing", "of a core", tuple(v.cpu for v in visits)),
    ]


def visit(bucket: str, index: Index, *, rate: float, seconds: float, connections: int = CONNECTIONS) -> Visit:
    """Opens the shards anew, with no connection yet, and takes batches; rate: bytes a second."""
    store = S3Store(f"s3://{bucket}")
    store.list_shards()  # as opening a data set does; its answer is not part of the wait for a batch
    source = BytesSource(ShardSet(store, index, ShardOptions(memory=0)))
    loader = byte_loader(source, LoaderSettings(connections=connections, workers=1))
    began = time.perf_counter()
    with closing(loader.iterate(DataPosition())) as batches:
        next(batches)
        first, cpu, received = time.perf_counter(), time.process_time(), store.counters.bytes
        while time.perf_counter() - first < seconds:
            next(batches)
        spent = time.perf_counter() - first
        share = (store.counters.bytes - received) / (rate * spent)
        return Visit(first - began, share, (time.process_time() - cpu) / spent)


def plain_visit(url: str, folder: Path, *, rate: float) -> Visit:
    """What the link gives to a client that signs, checks and keeps nothing: small ranges, then whole extents."""
    shards = sorted(path.name for path in folder.glob("*.tar"))
    size = min((folder / name).stat().st_size for name in shards)
    small = [(shards[n % len(shards)], n * SAMPLE_BYTES % (size - SAMPLE_BYTES), SAMPLE_BYTES) for n in range(BATCH)]
    large = [(name, begin, min(GROUP_BYTES, size - begin)) for name in shards for begin in range(0, size, GROUP_BYTES)]
    began = time.perf_counter()
    fetch(url, small, connections=CONNECTIONS)
    first, cpu = time.perf_counter(), time.process_time()
    received = fetch(url, large, connections=CONNECTIONS)
    spent = time.perf_counter() - first
    return Visit(first - began, received / (rate * spent), (time.process_time() - cpu) / spent)


@contextmanager
def slow_link(folder: Path, *, rate: float) -> Iterator[str]:
    """A proxy of `rate` bytes/s before a server of `folder` as a bucket, its URL; S3 clients find it by themselves."""
    rules = folder.parent / "rules.json"
    rules.write_text(json.dumps([{"action": "delay", "value": LATENCY}]))
    with ExitStack() as stack:
        server = stack.enter_context(_started("tests.support.s3", "--root", str(folder.parent)))
        proxied = ("--upstream", server, "--rules", str(rules), "--link-rate", str(rate))
        proxy = stack.enter_context(_started("tests.support.faults", *proxied))
        stack.enter_context(_environment(proxy))
        yield proxy


@contextmanager
def _started(module: str, *arguments: str) -> Iterator[str]:
    """A server of the test suite in a process of its own, on the last core; yields its URL."""
    if not (_REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file():
        raise InputError(f"{module} is not there: the bench over S3 runs in a checkout of the repository only")
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        os.sched_setaffinity(process.pid, {cores()[-1]})
        try:
            assert process.stdout is not None
            url = next((_url(line) for line in process.stdout if "AWS_ENDPOINT_URL=" in line), None)
            if url is None:
                raise InputError(f"python -m {module} ended with {process.wait()}: see above why")
            yield url
        finally:
            process.kill()


def _url(line: str) -> str:
    return line.partition("AWS_ENDPOINT_URL=")[2].split()[0]


@contextmanager
def _environment(endpoint: str) -> Iterator[None]:
    more = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
    more |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
