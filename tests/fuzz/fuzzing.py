"""Made-up inputs by the thousand: PINECO_FUZZ_SECONDS for each test, by default two, from PINECO_FUZZ_SEED on.

PINECO_FUZZ_SECONDS=600 python -m pytest tests/fuzz
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

SECONDS = float(os.environ.get("PINECO_FUZZ_SECONDS", "2"))
SEED = int(os.environ.get("PINECO_FUZZ_SEED", "0"))
LONGEST = 1.0  # seconds of processor time for one input
_ROUND = settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))

Input = TypeVar("Input")


@contextmanager
def no_hang(seconds: float = LONGEST) -> Iterator[None]:
    """Ends what takes longer, in processor time, so that other processes do not count."""

    def stop(*_: object) -> None:
        raise AssertionError(f"more than {seconds} s for one input")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz(inputs: SearchStrategy[Input]) -> Callable[[Callable[[Input], None]], Callable[[], None]]:
    """Makes a test of one input a test of as many as fit into the time; a failure names the seed that repeats it."""

    def decorate(test: Callable[[Input], None]) -> Callable[[], None]:
        def limited(made_up: Input) -> None:
            with no_hang():
                test(made_up)

        @functools.wraps(test)
        def run() -> None:
            end = time.monotonic() + SECONDS
            for number in count(SEED):
                try:
                    seed(number)(_ROUND(given(inputs)(limited)))()
                except BaseException as error:
                    error.add_note(f"repeat it with PINECO_FUZZ_SEED={number}")
                    raise
                if time.monotonic() > end:
                    return

        del run.__wrapped__  # pytest would take the input for a fixture
        return run

    return decorate
