"""Threads that serve what is waited for first, and yet never stop reading ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")
Task = tuple[Callable[[], None], Future]


class Pool:
    """`threads` workers for two kinds of calls, `urgent` ones and others, each kind in the order in which they came.

    Every second thread prefers the urgent kind, the rest the other one, and none is idle while anything waits. With
    urgent calls simply first, a trainer faster than single reads would keep every thread at them for ever, and the
    large reads that make an end of it would never begin.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._urgent: deque[Task] = deque()
        self._other: deque[Task] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._threads = [
            threading.Thread(target=self._work, args=(i % 2 == 0,), name=f"{name}_{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[], Result], *, urgent: bool) -> Future[Result]:
        """The result of `function`, or its error. Not after `close`."""
        future: Future[Result] = Future()

        def call() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # whoever asks for the result gets it, whatever it is
                future.set_exception(error)

        with self._changed:
            assert not self._closed
            (self._urgent if urgent else self._other).append((call, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Cancels what waits, and returns when what is under way has ended."""
        with self._changed:
            self._closed = True
            for waiting in (self._urgent, self._other):
                for _, future in waiting:
                    future.cancel()
                waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, prefers_urgent: bool) -> None:
        first, second = (self._urgent, self._other) if prefers_urgent else (self._other, self._urgent)
        while True:
            with self._changed:
                while not (first or second or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                call = (first or second).popleft()[0]
            call()
            del call  # or an idle thread would keep its last result, up to 16 MiB
