"""Progress of long work on stderr: a bar a task for people at a terminal, a plain line now and then in a file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # only a terminal needs rich, and importing it takes a tenth of a second
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_EVERY = 10.0  # seconds between two plain lines

# Columns of a bar. Any other text is a column of text, a format that sees `task` with its `fields`.
NAME = "{task.description}"
BAR, COUNT, BYTES, SPEED, ELAPSED, LEFT = "bar", "count", "bytes", "speed", "elapsed", "left"

Line = Callable[[float, float], str]  # (units a second, seconds left, infinite where not known) -> a plain line


@dataclass
class _Task:
    first: int  # units that were done before
    began: float  # seconds, of the monotonic clock
    bar: TaskID | None


class Progress:
    """Shows what is done of one task or of several; begins with the first, or on entering, and ends on leaving."""

    def __init__(self, *columns: str, show: bool = True, eager: bool = True, transient: bool = False) -> None:
        """show: False for nothing at all. eager: a plain line at the first update and at the last one, too.

        transient: the bars vanish in the end.
        """
        self._tasks: dict[str, _Task] = {}
        self._bars = _make_bars(columns, transient) if show and sys.stderr.isatty() else None
        self._plain, self._eager = show and self._bars is None, eager
        self._spoke = -math.inf  # seconds, of the monotonic clock

    def begin(self, name: str, of: int | None, done: int = 0, **fields: Any) -> None:
        """Adds a task. of: its units, None where that is not known; done: those that are not the work of this run."""
        bar = None if self._bars is None else self._bars.add_task(name, total=of, completed=done, **fields)
        now = time.monotonic()
        if not self._eager:
            self._spoke = max(self._spoke, now)
        self._tasks[name] = _Task(done, now, bar)

    def update(self, name: str, done: int, of: int | None, line: str | Line, **fields: Any) -> None:
        """done: units so far; line: what stands in a file; fields: what the columns show."""
        if name not in self._tasks:
            self.begin(name, of, **fields)
        task = self._tasks[name]
        if self._bars is not None and task.bar is not None:
            self._bars.update(task.bar, completed=done, total=of, **fields)
        elif self._plain:
            self._speak(task, done, of, line)

    def _speak(self, task: _Task, done: int, of: int | None, line: str | Line) -> None:
        now = time.monotonic()
        if now - self._spoke < PLAIN_EVERY and not (self._eager and done == of):
            return
        self._spoke = now
        rate = (done - task.first) / max(1e-9, now - task.began)
        left = (of - done) / rate if of is not None and rate else math.inf
        print(line if isinstance(line, str) else line(rate, left), file=sys.stderr, flush=True)

    def start(self) -> None:
        if self._bars is not None:
            self._bars.start()

    def stop(self) -> None:
        """Leaves the terminal to others, until the next `start`."""
        if self._bars is not None:
            self._bars.stop()

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Bars(Progress):
    """Called with what is done, how much of it, and of how much where that is known."""

    def __init__(self, *, show: bool) -> None:
        super().__init__(NAME, BAR, COUNT, ELAPSED, show=show)

    def __call__(self, what: str, done: int, of: int | None) -> None:
        self.update(what, done, of, f"{what}: {done:,}{f' of {of:,}' if of else ''}")

    def __enter__(self) -> Bars:
        self.start()
        return self


def _make_bars(columns: tuple[str, ...], transient: bool) -> RichProgress:
    from rich import progress
    from rich.console import Console

    known: dict[str, Callable[[], progress.ProgressColumn]] = {
        BAR: progress.BarColumn,
        COUNT: progress.MofNCompleteColumn,
        BYTES: progress.DownloadColumn,
        SPEED: progress.TransferSpeedColumn,
        ELAPSED: progress.TimeElapsedColumn,
        LEFT: progress.TimeRemainingColumn,
    }
    made = [known[column]() if column in known else progress.TextColumn(column) for column in columns]
    return progress.Progress(*made, console=Console(stderr=True), transient=transient)
