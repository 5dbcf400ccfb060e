"""Signals become a flag, whatever the main thread is doing."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pineco.launch.train import interrupt
from pineco.launch.train.interrupt import ASKING, StopFlag, listen_early


def _raise_and_wait(flag: StopFlag, number: int) -> None:
    os.kill(os.getpid(), number)
    end = time.monotonic() + 10
    while not flag.raised:
        assert time.monotonic() < end, "the flag was never raised"
        time.sleep(0.001)


@pytest.mark.parametrize("number", ASKING)
def test_one_signal_asks(number: int) -> None:
    """A first Ctrl-C, or SLURM's warning, would end the run without a checkpoint."""
    before = signal.getsignal(number)
    for _ in range(20):  # the thread and the handler race
        with StopFlag() as flag:
            assert not flag.raised
            _raise_and_wait(flag, number)
    assert signal.getsignal(number) is before


def test_a_scheduler_may_repeat_itself() -> None:
    """F7: the second warning would kill the rank in the middle of its checkpoint."""
    with StopFlag() as flag:
        _raise_and_wait(flag, signal.SIGUSR2)
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        time.sleep(0.05)


def test_a_second_interrupt_stops_at_once() -> None:
    """Nobody could stop a run that hangs."""
    with StopFlag() as flag, pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal arrives where it likes
        _raise_and_wait(flag, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_a_signal_before_the_flag_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """F7: a warning during the imports would kill a rank, which counts as a fault; or be lost, and the limit come."""
    monkeypatch.setattr(interrupt, "_early", threading.Event())
    before = {number: signal.getsignal(number) for number in ASKING}
    try:
        listen_early()
        with StopFlag() as flag:
            assert not flag.raised
        os.kill(os.getpid(), signal.SIGUSR2)
        with StopFlag() as flag:
            assert flag.raised
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
