"""How far it is: a bar for people, a line now and then for log files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0  # seconds between two lines
_Show = Callable[[int, str], None]  # (parts done, how many samples)


@contextmanager
def progress(what: str, parts: int) -> Iterator[Callable[[int, int], None]]:
    """Yields `advance(samples, rejected)`, to be called whenever one of the parts is done."""
    done = samples = rejected = 0
    with _bar(what, parts) if sys.stderr.isatty() else _lines(what, parts) as show:

        def advance(more: int, less: int) -> None:
            nonlocal done, samples, rejected
            done, samples, rejected = done + 1, samples + more, rejected + less
            show(done, f"{samples:,} samples, {rejected:,} rejected")

        yield advance


@contextmanager
def _bar(what: str, parts: int) -> Iterator[_Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=parts)
        yield lambda done, text: bar.update(task, completed=done, description=text)


@contextmanager
def _lines(what: str, parts: int) -> Iterator[_Show]:
    last = time.monotonic()

    def show(done: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{what}: {done:,} of {parts:,} parts, {text}", file=sys.stderr, flush=True)

    yield show
