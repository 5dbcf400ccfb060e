"""Signals as a flag that the loop reads between two steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

_early = threading.Event()  # a signal came before there was a StopFlag
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # USR2: SLURM's warning of a time limit or a preemption


def listen_early() -> None:
    """Remembers signals that come before there is a StopFlag, e.g. while a rank of a job imports for half a minute."""
    for number in ASKING:
        signal.signal(number, lambda *_: _early.set())


class StopFlag:
    """A signal asks the loop to save and stop. A second Ctrl-C stops at once; a scheduler may signal again and again.

    The handlers only count: Python's wake-up descriptor tells a thread, which may print and take locks, where a handler
    would do so in the middle of whatever the main thread is doing. Once for a process, in its main thread.
    """

    def __init__(self) -> None:
        self._raised, self._interrupts = threading.Event(), 0
        if _early.is_set():
            self._raised.set()

    @property
    def raised(self) -> bool:
        return self._raised.is_set()

    def __enter__(self) -> StopFlag:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._previous = {s: signal.signal(s, self._on_signal) for s in ASKING}
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._writing)  # ends the thread
        self._thread.join()
        os.close(self._reading)

    def _listen(self) -> None:
        while numbers := os.read(self._reading, 64):
            if not self.raised and any(number in ASKING for number in numbers):
                self._raised.set()
                print("pineco: stopping after this step; Ctrl-C once more stops at once", file=sys.stderr, flush=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:  # not `raised`: the thread may be faster than the handler of the first one
            raise KeyboardInterrupt
