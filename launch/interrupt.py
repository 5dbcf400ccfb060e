"""Ctrl-C and SIGTERM as a flag that the loop reads between two steps."""

from __future__ import annotations

import signal
import sys
from types import FrameType


class StopFlag:
    """The first signal asks the loop to save and stop; a second one stops at once."""

    def __init__(self) -> None:
        self.raised = False

    def __enter__(self) -> StopFlag:
        self._previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
        print("pineco: stopping after this step; once more stops at once", file=sys.stderr, flush=True)
