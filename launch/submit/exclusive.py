"""One submission of a run directory at a time, and none of it left where SLURM took nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.launch.rundir.layout import JOB, LOCK
from pineco.launch.rundir.owner import Owner

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of file systems that are mounted without them


@contextmanager
def submitting(run: Path) -> Iterator[None]:
    """Holds RUN while it is written and submitted; InputError where another process does so at this moment.

    run: directory of a run or of a sweep; it and its job/ are for the user alone. What this call created of it is
    removed where an InputError ends the block, so raise none in it once SLURM has taken the job.
    """
    lock, created = _take(run)
    try:
        yield
    except InputError:
        if created is not None:
            shutil.rmtree(created, ignore_errors=True)  # another process may already have begun in it: then it stays
        raise
    finally:
        os.close(lock)


def _take(run: Path) -> tuple[int, Path | None]:
    """(the lock's descriptor, the topmost directory that is new)."""
    try:
        while True:
            made = [path for path in (run, run / JOB) if _make_private(path)]
            lock = os.open(run / JOB / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if not _lock(lock):
                holder = os.read(lock, 200).decode(errors="replace").strip() or "another process"
                os.close(lock)
                raise InputError(f"{run}: {holder} is submitting it at this moment; make status shows its job soon")
            if _is_still(lock, run / JOB / LOCK):
                break
            os.close(lock)  # its directory was removed by a submission that was refused
        os.ftruncate(lock, 0)
        os.write(lock, f"{Owner.here()}\n".encode())
    except OSError as error:
        raise InputError(f"{error.filename or run}: {error.strerror}; pass a --run-dir that you may write") from None
    return lock, made[0] if made else None


def _make_private(folder: Path) -> bool:
    """Whether it is new. submitit unpickles what lies below: whoever may write there may run code."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        folder.chmod(0o700)
        return False
    return True


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print("pineco: this file system has no locks: do not submit one run twice at the same time", file=sys.stderr)
    return True


def _is_still(file: int, path: Path) -> bool:
    """Whether a path is that of an open file."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
