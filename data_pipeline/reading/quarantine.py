"""Samples that cannot be used: each is written down, a substitute takes its place, and too many stop the run."""

from __future__ import annotations

import json
import math
import os
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.randomness import Stream, bits
from pineco.data_pipeline.reading.reader import Origin

SHARE = 1e-4  # of the samples that a rank takes in an epoch
PER_SHARD = 50
ATTEMPTS = 8  # substitutes that may be bad, too, before something else is wrong


class Quarantine:
    """The bad samples of one rank, counted anew in every epoch. Safe for several threads.

    samples: that this rank takes in an epoch. ledger: a JSON line for each bad sample of each epoch; an existing one
    goes on, so that an interruption does not renew the budget.
    """

    def __init__(self, ledger: Path | None, *, samples: int, share: float = SHARE, per_shard: int = PER_SHARD) -> None:
        self.ledger, self.limit, self.per_shard = ledger, max(1, math.ceil(share * samples)), per_shard
        self._known: set[tuple[int, int]] = set()  # (epoch, sample)
        self._by_epoch: Counter[int] = Counter()
        self._by_shard: Counter[tuple[int, str]] = Counter()
        self._lock = threading.Lock()
        if ledger is not None and ledger.is_file():
            _drop_torn_line(ledger)
            for row in read_ledger(ledger):
                self._enter(row["epoch"], row["sample"], row["shard"])

    def __len__(self) -> int:
        """Bad samples found, those of each epoch counted anew."""
        return len(self._known)

    def add(self, epoch: int, sample: int, origin: Origin, reason: str) -> None:
        """Writes a sample down; raises InputError while the budget is overdrawn, after a restart as before it."""
        with self._lock:
            if (epoch, sample) not in self._known:
                self._enter(epoch, sample, origin.shard)
                self._write({"epoch": epoch, "sample": sample, **asdict(origin), "reason": reason})
            found, in_shard = self._by_epoch[epoch], self._by_shard[epoch, origin.shard]
        spent = []
        if found > self.limit:
            spent.append((f"{found} bad samples in epoch {epoch} on this rank (limit {self.limit})", "data.bad_share"))
        if in_shard > self.per_shard:
            spent.append((f"{in_shard} bad samples (limit {self.per_shard} a shard)", "data.bad_per_shard"))
        if spent:
            what, names = (" and ".join(part) for part in zip(*spent, strict=True))
            last = f"at last {origin.key} at byte {origin.offset}: {reason}"
            mend = f"mend the shard or raise {names}" + (f"; all are in {self.ledger}" if self.ledger else "")
            raise InputError(f"{origin.shard}: {what}, {last}; {mend}")

    def _enter(self, epoch: int, sample: int, shard: str) -> None:
        if (epoch, sample) not in self._known:
            self._known.add((epoch, sample))
            self._by_epoch[epoch] += 1
            self._by_shard[epoch, shard] += 1

    def _write(self, row: dict[str, Any]) -> None:
        if self.ledger is not None:
            self.ledger.parent.mkdir(parents=True, exist_ok=True)
            with self.ledger.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def substitute(seed: int, epoch: int, sample: int, attempt: int, samples: int) -> int:
    """The sample that takes the place of a bad one: the same for every rank, worker and resume."""
    return int(bits(seed, Stream.SUBSTITUTE, epoch, sample, attempt).random_raw()) % samples


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The rows of a ledger without a last line that a crash cut; raises InputError for any other that is no row."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            if not (type(row["epoch"]) is type(row["sample"]) is int and isinstance(row["shard"], str)):
                raise TypeError("epoch, sample or shard is of another type")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: line {number} is no bad sample ({error}); remove the line") from None
        rows.append(row)
    return rows


def _drop_torn_line(path: Path) -> None:
    """Or the next row would be written behind what a crash left of the last one."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
