"""Who writes a run directory: a job, or a process on a host. Torch-free."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass

_TEXT = re.compile(r"job (?P<job>\S+)|process (?P<pid>\d+) on (?P<host>\S+)")


@dataclass(frozen=True)
class Owner:
    """Under a scheduler its job, otherwise a process; `str` writes what `parse` reads."""

    job: str | None = None
    pid: int = 0
    host: str = ""

    @classmethod
    def here(cls, job: str | None = None) -> Owner:
        """This process, which counts as its job, if it has one."""
        return cls(job) if job else cls(pid=os.getpid(), host=socket.gethostname())

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Raises ValueError for what `str` of an owner never is."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is neither a job nor a process")
        return cls(found["job"]) if found["job"] else cls(pid=int(found["pid"]), host=found["host"])

    def __str__(self) -> str:
        return f"job {self.job}" if self.job else f"process {self.pid} on {self.host}"

    @property
    def on_this_host(self) -> bool:
        """Whether it is a process of this host. A job is on no host that could be known."""
        return self.job is None and self.host == socket.gethostname()

    @property
    def gone(self) -> bool:
        """Whether it is certain that it has ended; nobody can tell from another host."""
        return self.on_this_host and not _exists(self.pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
