"""The threads that read: nothing waits without need, neither kind of read keeps the other from going on."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from functools import partial

import pytest

from pineco.data_pipeline.reading.pool import Pool

LONG = 10.0  # seconds; far more than anything here takes


class Gate:
    """Calls that wait until they are let through; knows which of them a thread has taken up."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed, self._open = threading.Condition(), False

    def call(self, name: str) -> str:
        with self._changed:
            self.begun.append(name)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._open, LONG)
        return name

    def wait_for(self, calls: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= calls, LONG)

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test")]


def test_results_and_errors_reach_whoever_asks() -> None:
    """A failed read would be waited for without end, or pass for a good one."""
    pool = Pool(2, "test")
    fine = pool.submit(lambda: 7, urgent=True)
    failed = pool.submit(lambda: 1 // 0, urgent=False)
    exits = pool.submit(sys.exit, urgent=True)
    assert fine.result(LONG) == 7
    with pytest.raises(ZeroDivisionError):
        failed.result(LONG)
    with pytest.raises(SystemExit):
        exits.result(LONG)
    assert [pool.submit(partial(int, i), urgent=True).result(LONG) for i in range(50)] == list(range(50))
    pool.close()


def test_one_thread_takes_what_is_urgent_first_and_each_kind_in_turn() -> None:
    """A batch would wait for reads that nobody needs yet."""
    pool, gate = Pool(1, "test"), Gate()
    done: list[str] = []
    pool.submit(lambda: gate.call("first"), urgent=False)
    gate.wait_for(1)
    for name, urgent in (("a", False), ("B", True), ("c", False), ("D", True)):
        pool.submit(partial(done.append, name), urgent=urgent)
    last = pool.submit(lambda: done.append("e"), urgent=False)
    gate.open()
    last.result(LONG)
    assert done == ["B", "D", "a", "c", "e"]
    pool.close()


def test_reading_ahead_goes_on_under_a_flood_of_urgent_reads() -> None:
    """A trainer faster than single reads would be held at their speed for ever: no large read would ever begin."""
    pool, start, flood = Pool(4, "test"), Gate(), Gate()
    for _ in range(4):
        pool.submit(lambda: start.call(""), urgent=True)
    start.wait_for(4)
    for name, urgent in (("urgent", True), ("ahead", False)):
        for _ in range(20):
            pool.submit(partial(flood.call, name), urgent=urgent)
    start.open()
    flood.wait_for(4)
    assert sorted(flood.begun) == ["ahead", "ahead", "urgent", "urgent"]
    flood.open()
    flood.wait_for(40)
    pool.close()


@pytest.mark.parametrize("urgent", [True, False])
def test_no_thread_is_idle_while_anything_waits(urgent: bool) -> None:
    """Half of the connections would lie idle at the start, when all that is read is waited for."""
    pool, gate = Pool(4, "test"), Gate()
    for _ in range(4):
        pool.submit(lambda: gate.call(""), urgent=urgent)
    gate.wait_for(4)
    gate.open()
    pool.close()


def test_closing_cancels_what_waits_and_lets_end_what_runs() -> None:
    """The end of a run would wait for hours of reads, or leave threads that still write into its memory."""
    pool, gate = Pool(2, "test"), Gate()
    running = [pool.submit(lambda: gate.call("running"), urgent=False) for _ in range(2)]
    gate.wait_for(2)
    waiting: list[Future[str]] = [pool.submit(lambda: "never", urgent=u) for u in (True, False)]
    closer = threading.Thread(target=pool.close)
    closer.start()
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(LONG)
    assert closer.is_alive(), "closed while reads were under way"
    gate.open()
    closer.join(LONG)
    assert not closer.is_alive()
    assert [future.result(0) for future in running] == ["running"] * 2
    assert not pool_threads()


def test_closing_ends_idle_threads() -> None:
    """Every restart of a loader would leave its threads behind."""
    for threads in (1, 3, 16):
        pool = Pool(threads, "test")
        assert len(pool_threads()) == threads
        pool.close()
        assert not pool_threads()


def test_an_idle_thread_keeps_no_result() -> None:
    """Every connection would hold its last 16 MiB until it is used again."""

    class Result:
        def __init__(self, alive: list[int]) -> None:
            self.alive = alive
            alive.append(1)

        def __del__(self) -> None:
            self.alive.pop()

    alive: list[int] = []
    pool = Pool(3, "test")
    for _ in range(20):
        pool.submit(lambda: Result(alive), urgent=True).result(LONG)
    deadline = time.monotonic() + LONG
    while alive and time.monotonic() < deadline:
        time.sleep(0.001)  # a thread gives its result away a moment before it lets go of it
    assert not alive
    pool.close()
