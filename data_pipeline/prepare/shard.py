"""One part of a source becomes one shard in a local file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pineco.data_pipeline.prepare.job import Made, sample_key
from pineco.data_pipeline.prepare.outcome import Kept, Outcome, Rejected
from pineco.data_pipeline.stores.tar_writer import TarWriter


def write_shard(path: Path, number: int, outcomes: Iterable[Outcome]) -> tuple[Made, list[Rejected]]:
    """Writes shard `number` to `path`, an archive without members where everything was rejected."""
    lost, rejected, samples, items = [], [], 0, 0
    with path.open("wb") as file:
        writer = TarWriter(file)
        for place, outcome in enumerate(outcomes):
            items += 1
            if isinstance(outcome, Rejected):
                lost.append(place)
                rejected.append(outcome)
            else:
                _add(writer, outcome.key or sample_key(number, samples), outcome)
                samples += 1
        writer.close()
    return Made(number, items, samples, path.stat().st_size if samples else 0, tuple(lost)), rejected


def _add(writer: TarWriter, key: str, sample: Kept) -> None:
    for extension, data in sample.files.items():
        writer.add(f"{key}.{extension}", data)
    if sample.metadata is not None:
        writer.add(f"{key}.json", json.dumps({"key": key, **sample.metadata}).encode())
