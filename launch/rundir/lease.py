"""One run directory, one writer: `RUN/lease.json` names who has it, and its date shows that the holder lives.

Every holder has a larger token than those before it. Who lost the directory meanwhile, for instance because its node
was cut off and came back, sees a larger token before it publishes a checkpoint, and stops.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.launch.rundir.layout import CLAIM, LEASE
from pineco.launch.rundir.owner import Owner

SILENT = 60.0  # seconds without a sign of life until the directory is free
_RENEWED = 5.0  # seconds between two signs


@dataclass(frozen=True)
class Holder:
    token: int
    owner: Owner

    def to_json(self) -> str:
        return json.dumps({"token": self.token, "owner": str(self.owner)})

    @classmethod
    def from_json(cls, text: str) -> Holder:
        """Raises ValueError, KeyError or TypeError for what is no lease."""
        found = json.loads(text)
        return cls(found["token"], Owner.parse(found["owner"]))


class Lease:
    """Taken by `take`, or by entering, and held until leaving; a thread renews it meanwhile."""

    def __init__(self, run: Path, job: str | None, *, dead: float = SILENT) -> None:
        """dead: seconds after which a silent holder counts as gone."""
        self._run, self._path, self._job, self._dead = run, run / LEASE, job, dead
        self._ended = threading.Event()
        self.holder: Holder | None = None

    def __enter__(self) -> Lease:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> None:
        """Creates the directory if need be; InputError where somebody else has it. Nothing, if it is held already."""
        if self.holder is not None:
            return
        self._run.mkdir(parents=True, exist_ok=True)
        before = read_holder(self._run)
        owner = Owner.here(self._job)
        if before is not None and before.owner != owner and _alive(before, self._path, self._dead):
            raise InputError(f"{self._run}: {before.owner} is writing it; stop that first, or pass another --run-dir")
        self.holder = _claim(self._run, before.token if before else 0, owner, self._dead)
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def close(self) -> None:
        """Frees the directory at once; the token stays."""
        self._ended.set()
        if self.holder is not None and read_holder(self._run) == self.holder:
            os.utime(self._path, (0, 0))

    def check(self) -> None:
        """Raises InputError if the directory has passed to somebody else."""
        now = read_holder(self._run)
        if now != self.holder:
            taker = now.owner if now else "somebody who removed its lease"
            raise InputError(f"{self._run}: taken over by {taker} meanwhile; this process stops without writing to it")

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED):
            if read_holder(self._run) == self.holder:
                os.utime(self._path)


def read_holder(run: Path) -> Holder | None:
    try:
        return Holder.from_json((run / LEASE).read_text())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{run / LEASE}: damaged; remove it if no other process writes this directory") from None


def _claim(run: Path, after: int, owner: Owner, dead: float) -> Holder:
    """Writes the lease with the next token; of two that try at once for the same one, one fails."""
    token = after + 1
    while True:
        claim = run / f"{CLAIM}{token:08}"
        try:  # created, not replaced: of two who do so the file system refuses one
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if _age(claim) < dead:
                raise InputError(f"{run}: somebody else is taking it at this moment; try again in a minute") from None
            token += 1  # whoever claimed that one died before writing the lease
    holder = Holder(token, owner)
    write_text_atomically(run / LEASE, holder.to_json())
    for older in run.glob(f"{CLAIM}*"):
        if older != claim:
            older.unlink(missing_ok=True)
    return holder


def _alive(holder: Holder, path: Path, dead: float) -> bool:
    """Whether the holder has shown life; a process of this host that is gone has not."""
    return not holder.owner.gone and _age(path) < dead


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system, which all nodes share."""
    probe = path.parent / f".probe_{socket.gethostname()}_{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()
