"""Worker processes: nobody outlives the process that asked, and a killed one is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.processes import processes

START = """
import sys, time
from pineco.data_pipeline.processes import processes
with processes(2, killed="killed", fork=sys.argv[1] == "fork") as pool:
    for _ in range(2):
        pool.submit(time.sleep, 600)
    pool.submit(time.sleep, 0)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_end_with_their_parent(start: str) -> None:
    """After kill -9, workers would hold memory on a node for ever."""
    with subprocess.Popen([sys.executable, "-c", START, start], stdout=-1, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        family = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children: set[str] = set()
        deadline = time.monotonic() + 60
        while len(children) < 2:
            assert time.monotonic() < deadline
            children = set(family.read_text().split())
        process.kill()
    deadline = time.monotonic() + 60
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("fork", [False, True])
def test_a_killed_worker_is_what_the_caller_says(fork: bool) -> None:
    """A user would see a page of Python, or wait for ever."""

    def run() -> None:
        with processes(2, killed="pass fewer workers", fork=fork) as pool:
            pool.submit(die).result()

    with pytest.raises(InputError, match=r"^pass fewer workers$"):
        run()


@pytest.mark.parametrize("fork", [False, True])
def test_each_worker_begins_with_what_it_is_given(fork: bool) -> None:
    """The first task of a worker would find nothing."""
    with processes(1, os.putenv, "PINECO_TEST", "7", killed="", fork=fork) as pool:
        done = pool.submit(subprocess.check_output, ["printenv", "PINECO_TEST"]).result()
    assert done == b"7\n"
