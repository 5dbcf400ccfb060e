"""Progress of long work: a bar for each part on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_EVERY = 10.0  # seconds between two lines


class Bars:
    """Called with what is done, how much of it, and of how much where that is known."""

    def __init__(self, *, show: bool) -> None:
        self._console = Console(stderr=True)
        self._show, self._spoke, self._tasks = show, 0.0, dict[str, TaskID]()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=self._console) if show and self._console.is_terminal else None

    def __call__(self, what: str, done: int, of: int | None) -> None:
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=of)
            self._bars.update(self._tasks[what], completed=done, total=of)
        elif self._show and (time.monotonic() - self._spoke >= _EVERY or done == of):
            print(f"{what}: {done:,}{f' of {of:,}' if of else ''}", file=sys.stderr, flush=True)
            self._spoke = time.monotonic()

    def __enter__(self) -> Bars:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
