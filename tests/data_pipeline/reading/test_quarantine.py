"""Bad samples: each on one line of the ledger, each with the same substitute everywhere, too many stop the run."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.reading.quarantine import ATTEMPTS, Quarantine, read_ledger, substitute
from pineco.data_pipeline.reading.reader import Origin
from tests.support.sources import NumberReader, Numbers, NumberSource


def origin(sample: int, shard: str = "a.tar") -> Origin:
    return Origin(shard, f"key {sample}", 512 * sample)


def make(ledger: Path | None, **options: Any) -> Quarantine:
    return Quarantine(ledger, **{"samples": 100, "share": 0.05, "per_shard": 50} | options)


def test_each_bad_sample_is_one_line_an_epoch(tmp_path: Path) -> None:
    """A bad sample could not be found, or one would look like many."""
    quarantine = make(tmp_path / "run" / "rank.jsonl")
    quarantine.add(0, 7, origin(7), "lacks a .txt")
    quarantine.add(0, 7, origin(7), "lacks a .txt")
    quarantine.add(1, 7, origin(7), "lacks a .txt")
    assert len(quarantine) == 2
    assert read_ledger(tmp_path / "run" / "rank.jsonl") == [
        {"epoch": e, "sample": 7, "shard": "a.tar", "key": "key 7", "offset": 3584, "reason": "lacks a .txt"}
        for e in (0, 1)
    ]


@pytest.mark.parametrize(
    ("samples", "share", "limit"),
    [(100, 0.05, 5), (100, 0.051, 6), (20_000, 1e-4, 2), (10, 1e-4, 1), (10, 0.0, 1), (10, 1.0, 10)],
)
def test_the_budget_of_an_epoch(samples: int, share: float, limit: int) -> None:
    """A data set full of bad samples would be trained on, or one bad sample of a small set would stop every run."""
    quarantine = make(None, samples=samples, share=share)
    for epoch in (0, 1, 5):
        for sample in range(limit):
            quarantine.add(epoch, sample, origin(sample), "is bad")
        with pytest.raises(InputError) as raised:
            quarantine.add(epoch, limit, origin(limit), "is bad")
        message = f"a.tar: {limit + 1} bad samples in epoch {epoch} on this rank (limit {limit}), at last "
        assert str(raised.value).startswith(
            f"{message}key {limit} at byte {512 * limit}: is bad; mend the shard or raise"
        )
        assert "data.bad_share" in str(raised.value)
        assert "bad_per_shard" not in str(raised.value)


def test_the_budget_of_a_shard(tmp_path: Path) -> None:
    """A shard that was cut would be trained on as substitutes for the rest of it."""
    quarantine = make(tmp_path / "rank.jsonl", share=1.0, per_shard=3)
    for sample in range(3):
        quarantine.add(0, sample, origin(sample, "a.tar"), "is bad")
        quarantine.add(0, 50 + sample, origin(50 + sample, "b.tar"), "is bad")
        quarantine.add(1, sample, origin(sample, "a.tar"), "is bad")
    with pytest.raises(
        InputError, match=r"^b\.tar: 4 bad samples \(limit 3 a shard\), .* raise data\.bad_per_shard; all "
    ):
        quarantine.add(0, 99, origin(99, "b.tar"), "is bad")
    assert len(read_ledger(tmp_path / "rank.jsonl")) == 10


def test_the_message_is_one_line(tmp_path: Path) -> None:
    """The terminal would show a page where one line says it."""
    quarantine = make(tmp_path / "rank.jsonl", samples=1, per_shard=1)
    quarantine.add(0, 1, origin(1), "is bad")
    with pytest.raises(InputError) as raised:
        quarantine.add(0, 2, origin(2), "is bad")
    message = str(raised.value)
    assert "\n" not in message
    assert "limit 1) and 2 bad samples (limit 1 a shard), at last" in message
    assert f"raise data.bad_share and data.bad_per_shard; all are in {tmp_path / 'rank.jsonl'}" in message


def test_an_interruption_does_not_renew_the_budget(tmp_path: Path) -> None:
    """A job that is requeued again and again would get through any number of bad samples, a few at a time."""
    ledger = tmp_path / "rank.jsonl"
    for sample in range(5):
        make(ledger).add(0, sample, origin(sample), "is bad")  # opened anew each time
    with pytest.raises(InputError, match="6 bad samples in epoch 0"):
        make(ledger).add(0, 5, origin(5), "is bad")
    with pytest.raises(InputError, match="6 bad samples in epoch 0"):
        make(ledger).add(0, 2, origin(2), "is bad")  # a known one: the budget is spent before and after a restart
    make(ledger).add(1, 5, origin(5), "is bad")  # another epoch has its own
    make(ledger, share=0.06).add(0, 5, origin(5), "is bad")  # raised by the user
    assert [row["sample"] for row in read_ledger(ledger)] == [0, 1, 2, 3, 4, 5, 5]


def test_a_line_that_a_crash_cut_is_written_again(tmp_path: Path) -> None:
    """The row behind it would be unreadable, too, and both would be missing from the budget."""
    ledger = tmp_path / "rank.jsonl"
    first = make(ledger)
    for sample in range(3):
        first.add(0, sample, origin(sample), "is bad")
    whole = ledger.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[2])):
        ledger.write_bytes(whole[:-cut])
        again = make(ledger)
        assert len(again) == 2
        again.add(0, 2, origin(2), "is bad")
        assert ledger.read_bytes() == whole


@pytest.mark.parametrize(
    "line", [b"", b"no json", b"[]", b"null", b"{}", b'{"epoch": 0, "sample": "1", "shard": "a.tar"}', b"\xff"]
)
def test_a_ledger_that_was_edited_is_named(tmp_path: Path, line: bytes) -> None:
    """Bad samples would vanish from the budget, or a traceback would stop the restart."""
    ledger = tmp_path / "rank.jsonl"
    make(ledger).add(0, 1, origin(1), "is bad")
    ledger.write_bytes(line + b"\n" + ledger.read_bytes())
    with pytest.raises(InputError, match=r"rank\.jsonl: line 1 is no bad sample .*; remove the line$"):
        make(ledger)


def test_many_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two decoders that find bad samples at the same time would lose a line, write two, or miscount."""
    quarantine = make(tmp_path / "rank.jsonl", samples=10_000, per_shard=10_000)
    together, enter = threading.Barrier(8), quarantine._enter

    def enter_late(*row: Any) -> None:  # widens every race
        time.sleep(0.001)
        enter(*row)

    monkeypatch.setattr(quarantine, "_enter", enter_late)

    def find(_: int) -> None:
        for sample in range(40):
            together.wait(10)
            quarantine.add(0, sample, origin(sample), "is bad")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(find, range(8)))
    assert [row["sample"] for row in read_ledger(tmp_path / "rank.jsonl")] == list(range(40))
    assert len(quarantine) == 40


def test_a_ledger_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Bad samples would go unrecorded."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make(tmp_path / "file" / "rank.jsonl").add(0, 1, origin(1), "is bad")


def test_substitutes_are_spread_and_never_change() -> None:
    """Ranks or restarts would disagree on a batch, or one sample would stand in for all bad ones."""
    assert [substitute(3, 1, 7, attempt, 1000) for attempt in range(4)] == [109, 62, 412, 903]
    drawn = [substitute(0, 0, sample, 0, 50) for sample in range(5000)]
    counts = np.bincount(drawn, minlength=50)
    assert ((counts - 100) ** 2 / 100).sum() < 85.4  # chi-square, 49 degrees of freedom, p = 0.001
    assert substitute(0, 0, 5, 0, 1) == 0


def read(loader: Loader[Numbers], batches: int, start: DataPosition | None = None) -> list[Numbers]:
    found = loader.iterate(start or DataPosition())
    try:
        return [batch for _, batch in islice(found, batches)]
    finally:
        found.close()


def make_loader(source: NumberSource, *, rank: int = 0, world: int = 1, **options: Any) -> Loader[Numbers]:
    settings = LoaderSettings(**{"connections": 2, "bad_share": 1.0, "bad_per_shard": 10**6} | options)
    return Loader(source, batch_size=8, lanes=4, seed=5, rank=rank, world=world, settings=settings)


def bad_source(bad: set[int]) -> NumberSource:
    return NumberSource(45, reader=NumberReader(bad=bad))


def expected(batches: list[Numbers], bad: set[int]) -> list[Numbers]:
    """The batches of good data with bad samples replaced, as `substitute` says."""

    def good(epoch: int, sample: int) -> int:
        chosen, attempt = sample, 0
        while chosen in bad:
            chosen, attempt = substitute(5, epoch, sample, attempt, 45), attempt + 1
        return chosen

    return [[(epoch, good(epoch, sample)) for epoch, sample in batch] for batch in batches]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_substitutes_are_the_same_for_all_ranks_and_workers(tmp_path: Path, world: int, workers: int) -> None:
    """Runs with bad samples could not be repeated with another number of GPUs; substitutes may be bad, too."""
    bad = set(range(0, 45, 3))
    plain = read(make_loader(bad_source(set())), 12)
    ledgers = [tmp_path / f"{rank}.jsonl" for rank in range(world)]
    ranks = [
        read(make_loader(bad_source(bad), rank=r, world=world, workers=workers, ledger=ledgers[r]), 12)
        for r in range(world)
    ]
    assert [[pair for part in parts for pair in part] for parts in zip(*ranks, strict=True)] == expected(plain, bad)
    rows = [row for ledger in ledgers for row in read_ledger(ledger)]
    asked = {(epoch, sample) for batch in plain[:10] for epoch, sample in batch if sample in bad}
    assert asked <= {(row["epoch"], row["sample"]) for row in rows}
    assert {row["sample"] for row in rows} <= bad
    assert all((row["shard"], row["key"]) == (f"shard {row['sample'] // 10}", f"key {row['sample']}") for row in rows)
    assert {row["reason"] for row in rows} == {"is bad"}


@pytest.mark.parametrize("start", [DataPosition(0, 3), DataPosition(1, 0), DataPosition(1, 2)])
def test_a_resumed_run_gets_the_same_substitutes_and_lines(tmp_path: Path, start: DataPosition) -> None:
    """A run that went on after an interruption would differ from one that was never stopped."""
    bad, t = {1, 8, 20, 33}, start.epoch * 5 + start.batch
    whole = read(make_loader(bad_source(bad), ledger=tmp_path / "whole.jsonl", prefetch=0), 15)
    first = read(make_loader(bad_source(bad), ledger=tmp_path / "parts.jsonl", prefetch=2), t)
    rest = read(make_loader(bad_source(bad), ledger=tmp_path / "parts.jsonl", prefetch=0), 15 - t, start)
    assert first + rest == whole
    lines = [sorted(json.dumps(row) for row in read_ledger(tmp_path / f"{n}.jsonl")) for n in ("whole", "parts")]
    assert lines[0] == lines[1]
    assert len(set(lines[0])) == len(lines[0])


def test_one_bad_sample_more_than_allowed_stops_the_run(tmp_path: Path) -> None:
    """Training would go on with substitutes for a broken data set."""
    bad = {1, 8, 20, 33}
    order = [sample for batch in read(make_loader(bad_source(set())), 5) for _, sample in batch]
    bad &= set(order)
    limit: dict[str, Any] = {"bad_share": (len(bad) - 1) / 40, "prefetch": 0}
    place = max(order.index(sample) for sample in bad) // 8  # the batch of the last one
    loader = make_loader(bad_source(bad), ledger=tmp_path / "rank.jsonl", **limit)
    batches = loader.iterate(DataPosition())
    for _ in range(place):
        next(batches)
    with pytest.raises(InputError, match=rf"{len(bad)} bad samples in epoch 0 on this rank \(limit {len(bad) - 1}\)"):
        next(batches)
    assert loader.stats.quarantined == len(bad)
    with pytest.raises(InputError, match="bad samples in epoch 0"):  # a restart does not get past it either
        read(make_loader(bad_source(bad), ledger=tmp_path / "rank.jsonl", **limit), 5)


def test_a_data_set_without_a_good_sample_ends() -> None:
    """The search for a substitute would never end."""
    with pytest.raises(InputError, match=rf"^sample \d+ and {ATTEMPTS} substitutes for it are bad"):
        read(make_loader(bad_source(set(range(45)))), 1)


def test_a_repeated_bad_row_costs_no_memory() -> None:
    """A reader that keeps its rows would grow with every epoch: each raise lengthens the traceback of an error."""
    bad = NumberReader(bad={3})
    kept = bad.read(np.arange(45))
    bad.read = lambda rows, *, ahead=False: {row: kept[row] for row in rows.tolist()}  # type: ignore[method-assign]
    read(make_loader(NumberSource(45, reader=bad)), 40)
    assert kept[3].__traceback__ is None  # type: ignore[union-attr]
