"""What the command lines of evaluations share: numbers that must be positive, and where a report may go."""

from __future__ import annotations

import argparse
import errno
import os
from pathlib import Path

from pineco.data_pipeline.errors import InputError


def positive(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def whole(text: str) -> int:
    """For argparse: a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def positive_number(text: str) -> float:
    """For argparse: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def check_report_path(path: Path) -> None:
    """Raises InputError where `--out` can be no JSON file: known before an evaluation of hours, not after it."""
    if path.suffix != ".json" or path.is_dir():
        raise InputError(f"--out {path}: must be a file that ends in .json")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}; create it first")


def make_folder(path: Path, out: Path) -> None:
    """Makes the folder and writes a file into it, which it takes away again.

    Raises InputError, which names `--out`, where that cannot be done: also known before, not after.
    """
    probe = path / f".{os.getpid()}.probe"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        why = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise InputError(f"--out {out}: the folder {path} cannot be written ({why}); name another place") from None


def full_disk(error: OSError) -> InputError:
    """What to say where there is no room; any other error is raised as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    where = f"{error.filename}: " if error.filename else ""
    return InputError(f"{where}{error.strerror}; make room, then start again with the same --out")
