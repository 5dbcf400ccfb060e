"""Calls of `pineco data prepare` that are interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.support.commands import command
from tests.support.prepared import prepared, tree

main = command("data prepare")


Source = tuple[str, Path, tuple[str, ...]]  # kind, SRC, options


def call(source: Source, destination: Path, count: int = 1) -> int:
    kind, path, options = source
    return main([kind, str(path), str(destination), *options, "--workers", str(count)])


def kill_at(source: Source, destination: Path, moment: int) -> None:
    """Runs it and dies, as by kill -9, when file number `moment` is written but does not have its name yet."""
    rename, left = Path.replace, moment

    def replace(path: Path, target: Any) -> Path:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return rename(path, target)

    with mock.patch.object(Path, "replace", replace):
        os._exit(call(source, destination))


def survives(source: Source, begin: Callable[[Path], None], place: Path, expected: dict[str, bytes]) -> int:
    """At how many moments it was killed; checks what the next call makes of each. begin: what is there at first."""
    context = multiprocessing.get_context("fork")
    for moment in range(2 * len(expected)):
        destination = place / f"dst{moment}"
        begin(destination)
        process = context.Process(target=kill_at, args=(source, destination, moment))
        process.start()
        process.join()
        if process.exitcode == 0:
            return moment
        assert process.exitcode == -signal.SIGKILL
        assert moment == 0 or not prepared(destination)["complete"]
        assert call(source, destination) == 0
        assert tree(destination) == expected, f"killed at write {moment}"
    pytest.fail("it did not come to its end")
