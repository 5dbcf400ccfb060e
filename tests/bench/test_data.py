"""The bench of the reading path: that its figures mean what they say, and that every contestant does its work."""

from __future__ import annotations

import io
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from PIL import Image

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.shard_set import ShardOptions, open_shards
from tests.bench.data import image_text, parts, reading, s3_link, shards, workers
from tests.bench.data.figures import Demand, Figure, lower, ratios
from tests.bench.data.rounds import Pipeline, Turn, take_turn, take_turns
from tests.bench.data.run import Size, record, show


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "photos"
    shards.write_photos(folder, shards=1, samples=96, distinct=2)
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "bytes"
    shards.write_bytes(folder, shards=2, samples=160)
    return folder


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.zeros((len(texts), 4), dtype=torch.int64)


def transform(image: Image.Image) -> torch.Tensor:
    return torch.zeros(3, *image.size)


def endless(log: list[str], name: str) -> Pipeline:
    def pipeline() -> Generator[int, None, None]:
        log.append(f"{name} begins")
        try:
            while True:
                yield 5
        finally:
            log.append(f"{name} ends")

    return pipeline


def test_contestants_never_run_at_the_same_time_and_swap_places() -> None:
    """Threads of one contestant would compute in the turn of the other, and the second place would be the better."""
    log: list[str] = []
    turns = take_turns({"a": endless(log, "a"), "b": endless(log, "b")}, rounds=2, seconds=0.001)
    assert log[::2] == [f"{name} begins" for name in "abbaab"]
    assert log[1::2] == [f"{name} ends" for name in "abbaab"]
    assert [len(turns[name]) for name in "ab"] == [2, 2], "the round before the first is thrown away"


def test_samples_before_the_clock_starts_are_not_counted() -> None:
    """Filled buffers would be counted as speed."""

    def pipeline() -> Generator[int, None, None]:
        yield 1000
        while True:
            yield 1

    turn = take_turn(pipeline, seconds=0, warm=1000)
    assert turn.samples == 1


def test_ratios_are_taken_round_by_round() -> None:
    """A slow minute of the machine would count as a slow contestant."""
    ours = [Turn(100, wall=1, cpu=1), Turn(10, wall=1, cpu=0.5), Turn(100, wall=1, cpu=1)]
    theirs = [Turn(50, wall=1, cpu=1), Turn(5, wall=1, cpu=1), Turn(50, wall=1, cpu=1)]
    wall, cpu = ratios("ours over theirs", ours, theirs)
    assert wall.values == (2, 2, 2)
    assert cpu.values == (2, 4, 2)
    assert lower([Figure("", "x", (3, 5, 4)), Figure("", "x", (2, 9, 3))]) == 3


def test_what_falls_short_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A demand that does not hold would pass unseen in a table, or in the record."""
    figures = [Figure("a rate", "img/s", (1, 2, 3, 4, 5))]
    demands = [Demand("L1", "fast", 2.29, 2.3), Demand("L3", "soon", 0.4, 0.56, at_most=True)]
    show(figures, demands)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "FALLS SHORT" in rows["L1"]
    assert "holds" in rows["L3"]
    found = record(Size(1, 1.0), figures, demands)
    assert found["demands"][0] == {"id": "L1", "what": "fast", "measured": 2.29, "at_least": 2.3, "holds": False}
    assert found["demands"][1]["at_most"] == 0.56
    assert found["figures"][0] == {"what": "a rate", "unit": "img/s", "median": 3, "p20": 1.8, "p80": 4.2, "turns": 5}
    assert {"commit", "date", "hardware", "versions"} <= found.keys()


def test_photos_are_what_the_figures_name() -> None:
    """L1 is stated for 500 x 375 at quality 90, some 60 KB: smaller files would decode faster for everyone."""
    jpegs = [shards.photo(seed) for seed in range(8)]
    assert {Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs} == {(500, 375)}
    assert 55_000 < sum(map(len, jpegs)) / len(jpegs) < 75_000


def test_image_contestants_give_batches(photos: Path) -> None:
    """L1 would compare pipelines that do not do the same work, or threads with processes that make nothing."""
    source = image_text.image_source(photos, tokenize)
    contestants = {
        "ours": image_text.ours(source, workers=1),
        "usual": image_text.usual(photos, tokenize, transform),
        "processes": workers.processes(source, workers=1),
    }
    for name, pipeline in contestants.items():
        batches = pipeline()
        assert [next(batches), next(batches)] == [image_text.BATCH] * 2, name
        batches.close()


def test_readers_give_every_sample(samples: Path) -> None:
    """L2 would count samples that were not read."""
    source = reading.BytesSource(open_shards(str(samples), ShardOptions(memory=0)))
    whole = reading.read(source)()
    assert sum(next(whole) for _ in range(len(source.extents(reading.LANES).first))) == len(source) == 320
    for pipeline in (reading.loaded(source), reading.usual(samples)):
        assert next(pipeline()) == reading.BATCH


def test_steps_and_indexing_are_measured(photos: Path) -> None:
    """The profile of an image would miss a step, or hold one that took no time."""
    source = image_text.image_source(photos, tokenize)
    result = parts.measure(source, transform=transform, images=2, rounds=1)
    assert {"decode_image", "crop and resize", "tokenise"} <= {figure.what for figure in result.figures}
    assert all(figure.median > 0 for figure in [*result.figures, *parts.measure_index(photos, rounds=1).figures])


def test_link_is_as_slow_as_it_says(samples: Path) -> None:
    """L3 would measure the loopback device: neither client may be faster than the link, nor sooner than its latency."""
    result = s3_link.measure(samples, mega_bytes=40, rounds=1, seconds=0.5)
    found = {figure.what: figure.median for figure in result.figures}
    shares = [value for what, value in found.items() if "share" in what]
    firsts = [value for what, value in found.items() if "first" in what]
    assert (len(shares), len(firsts)) == (2, 3)
    assert all(0 < share < 2 for share in shares), shares  # without a limit it is above 10
    least = s3_link.LATENCY + reading.BATCH * shards.SAMPLE_BYTES / 40e6
    assert all(first > 0.9 * least for first in firsts), firsts


def test_outside_a_checkout_the_servers_are_missed(monkeypatch: pytest.MonkeyPatch, samples: Path) -> None:
    """An installed package has no tests: the bench would die with a traceback of a child."""
    monkeypatch.setattr(s3_link, "_REPOSITORY", samples)
    with pytest.raises(InputError, match="checkout of the repository"):
        s3_link.measure(samples, mega_bytes=40, rounds=1, seconds=0.5)
