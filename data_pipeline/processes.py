"""Worker processes that end with the process that asked for them, and say in one line that they were killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from pineco.data_pipeline.errors import InputError

_CTRL_C = 0.2  # seconds: workers leave at Ctrl-C, and the news of it may come before our own KeyboardInterrupt
_LOOK = 0.5  # seconds between two looks whether the parent is there


@contextmanager
def processes(
    workers: int, begin: Callable[..., None] | None = None, *arguments: Any, killed: str, fork: bool = False
) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of `workers` processes, each of which begins with begin(*arguments).

    What was submitted and did not begin is dropped at the end. fork: for what a script or a notebook calls; to be
    entered before anything that runs a thread, which a fork would cut in two. Raises InputError with the text `killed`
    where a worker dies, perhaps for its memory.
    """
    # Spawned, not forked or served: no S3 client and no lock of another thread crosses over, and the environment is
    # that of this moment. Forked workers start at once, and also where __main__ cannot be imported again.
    context = multiprocessing.get_context("fork" if fork and sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (os.getpid(), begin, arguments))
    try:
        yield pool
    except BrokenProcessPool:
        time.sleep(_CTRL_C)
        raise InputError(killed) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int, begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """In a new worker."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background, for the parent, too
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # Ctrl-C is the parent's to report
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _follow(parent: int) -> None:
    """Ends this process once its parent is gone: a pool does not notice, and nobody would wait for what it makes.

    Not by the pipe of multiprocessing.parent_process(): forked workers hold each other's ends of it open.
    """
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)
