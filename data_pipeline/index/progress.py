"""How far the scanning of shards is: a bar for people, a line now and then for log files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 10.0  # seconds between two lines

Report = Callable[[int, int], None]  # (bytes, shards) done so far


@contextmanager
def progress(what: str, total_bytes: int, total_shards: int) -> Iterator[Report]:
    """Yields what is to be told how far it is, at any rate; on stderr."""
    if not sys.stderr.isatty():
        yield _lines(what, total_bytes, total_shards)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total_bytes)

        def report(done: int, shards: int) -> None:
            bar.update(task, completed=done, description=f"{what} {shards:,} of {total_shards:,} shards")

        yield report


def _lines(what: str, total_bytes: int, total_shards: int) -> Report:
    began = last = time.monotonic()

    def report(done: int, shards: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < EVERY:
            return
        last, rate = now, done / (now - began)  # bytes/s
        far = f"{shards:,} of {total_shards:,} shards, {done / 1e9:.1f} of {total_bytes / 1e9:.1f} GB"
        left = f", {(total_bytes - done) / rate / 60:.0f} min left" if rate else ""
        print(f"{what} {far}, {rate / 1e6:.0f} MB/s{left}", file=sys.stderr, flush=True)

    return report
