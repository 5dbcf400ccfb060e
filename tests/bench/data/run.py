"""python -m tests.bench.data.run: what the reading path does per core and over a slow link, beside what others use.

Contestants take turns in one process on one core, so that a noisy machine slows all; figures are medians over the
rounds, ratios are taken round by round. Prints a table and writes one record into results/data/. Needs 1 GB of disk
for a minute, and for the part over S3 a checkout of the repository, whose test servers it starts.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import image_transform
from rich.console import Console
from rich.table import Table

from pineco.data_pipeline.errors import InputError
from pineco.evals.results.provenance import commit, hardware, versions
from pineco.pretrain.models.clip import tokenizer
from tests.bench.data import image_text, parts, reading, s3_link, workers
from tests.bench.data.figures import Demand, Figure, Result
from tests.bench.data.shards import write_bytes, write_photos

MODEL = "ViT-B-32"  # whose tokenizer and image size are used
LINKS = (100, 200)  # MB/s
BUSY = 1.5  # runnable threads a core, in the last minute; the bench itself is one or two
_PACKAGES = ("webdataset", "simplejpeg", "isal", "boto3")


@dataclass(frozen=True)
class Size:
    """How much is measured; nothing of it changes what is measured."""

    rounds: int
    seconds: float  # of a turn
    photos: int = 192  # in each of 4 shards
    samples: int = 1024  # in each of 8 shards of samples of 62 KB: 512 MB, extents of 16 MiB
    links: tuple[int, ...] = LINKS


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    size = Size(options.rounds, options.seconds)
    if options.quick:
        size = Size(1, 0.3, photos=48, samples=128, links=LINKS[-1:])
    try:
        logging.getLogger("botocore").setLevel(logging.WARNING)  # at INFO it tells where credentials came from
        gc.freeze()  # as a run does before its first step
        with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
            results = list(_measure(Path(folder), size))
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        print("other programs keep this machine busy: ratios hold by and large, rates and L3 are too low")
    figures = [figure for result in results for figure in result.figures]
    demands = [demand for result in results for demand in result.demands]
    show(figures, demands)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record(size, figures, demands), indent=2) + "\n")
    print(f"written to {options.out}")
    return 0


def show(figures: list[Figure], demands: list[Demand]) -> None:
    """The tables of the terminal; what does not hold says FALLS SHORT."""
    table = Table("figure", "unit", "median", "p20", "p80", box=None)
    for figure in figures:
        row = figure.record()
        table.add_row(row["what"], row["unit"], *(f"{row[name]:g}" for name in ("median", "p20", "p80")))
    asked = Table("", "required", "measured", "at", "", box=None)
    for demand in demands:
        bound = f"{'<=' if demand.at_most else '>='} {demand.required:g}"
        verdict = "holds" if demand.holds else "FALLS SHORT"
        asked.add_row(demand.id, demand.what, f"{demand.measured:.3g}", bound, verdict)
    console = Console(width=150, soft_wrap=True)
    console.print(table, "", asked)


def record(size: Size, figures: list[Figure], demands: list[Demand]) -> dict[str, Any]:
    """What goes into results/."""
    return {
        "what": "the reading path beside webdataset, Pillow and worker processes; medians over interleaved turns",
        "rounds": size.rounds,
        "seconds_a_turn": size.seconds,
        "demands": [demand.record() for demand in demands],
        "figures": [figure.record() for figure in figures],
        "commit": commit(),
        "versions": versions() | {name: version(name) for name in _PACKAGES},
        "load_average": os.getloadavg()[0],
        "hardware": f"{hardware(torch.device('cpu'))}, {_processor()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _measure(folder: Path, size: Size) -> Iterator[Result]:
    photos, samples = folder / "photos", folder / "bytes"
    _say("writing shards")
    write_photos(photos, shards=4, samples=size.photos, distinct=96)
    write_bytes(samples, shards=8, samples=size.samples)
    rounds, seconds = size.rounds, size.seconds
    tokenize, transform = tokenizer(MODEL), image_transform(image_text.SIDE, is_train=True)
    source = image_text.image_source(photos, tokenize)
    _say("L1: images and captions")
    yield image_text.measure(photos, tokenize=tokenize, transform=transform, rounds=rounds, seconds=seconds)
    _say("L2: samples without decoding")
    yield reading.measure(samples, rounds=rounds, seconds=seconds)
    for link in size.links:
        _say(f"L3: S3 at {link} MB/s")
        yield s3_link.measure(samples, mega_bytes=link, rounds=max(1, rounds // 2), seconds=2 * seconds)
    _say("threads and processes")
    yield workers.measure(source, rounds=rounds, seconds=seconds)
    _say("steps of an image, indexing")
    yield parts.measure(source, transform=transform, images=96, rounds=rounds)
    yield parts.measure_index(samples, rounds=rounds)


def _say(what: str) -> None:
    print(what, flush=True)


def _processor() -> str:
    """The name of the processor, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "processor unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor unknown"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.data.run", description="Measures the reading path.")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contestant")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--out", type=Path, default=Path("results/data/bench.json"))
    parser.add_argument("--quick", action="store_true", help="one short turn on small shards: whether it runs at all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
