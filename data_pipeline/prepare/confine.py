"""Files of a source that are nowhere but below its folder, whatever a table or a symbolic link says."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath

from pineco.data_pipeline.prepare.outcome import Rejected, RejectError

MAX_IMAGE = 1 << 28  # bytes; a larger file is no image that we decode
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
"""What is looked at in a folder of images; whether it is one that we read is judged by its bytes."""

OUTSIDE, MISSING, NO_FILE, TOO_LARGE = "leads out of SRC", "missing file", "no regular file", "too large"
LINKED_FOLDER = "symbolic link to a folder"
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def resolve_below(root: Path, path: str) -> tuple[Path, os.stat_result]:
    """The regular file that `path` names, links followed, and its facts; root is resolved already.

    An absolute path is taken where it is below root. Raises RejectError for every other one, and for what is missing
    or no regular file (a pipe would be read for ever).
    """
    if not path or "\0" in path or ".." in PurePath(path).parts:
        raise RejectError(OUTSIDE)
    real = Path(os.path.realpath(root / path))
    if not real.is_relative_to(root):
        raise RejectError(OUTSIDE)
    try:
        facts = real.stat()
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        raise RejectError(MISSING) from None
    if not stat.S_ISREG(facts.st_mode):
        raise RejectError(NO_FILE)
    return real, facts


def read_below(root: Path, path: str, limit: int = MAX_IMAGE) -> bytes:
    """The bytes of a file below root; raises RejectError as `resolve_below`, and for more than `limit` bytes."""
    real, facts = resolve_below(root, path)
    if facts.st_size > limit:
        raise RejectError(TOO_LARGE, f"{facts.st_size} bytes")
    return real.read_bytes()


def image_files(root: Path, below: str) -> Iterator[str | Rejected]:
    """Paths, relative to root, of the files below root/below that are called images, sorted; links to folders rejected.

    below: a folder, or nothing for all of root. Hidden names are left out: they are what desktops and interrupted
    copies leave behind.
    """
    entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    for entry in (e for e in entries if not e.name.startswith(".")):
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_symlink() and entry.is_dir():
            yield Rejected(path, LINKED_FOLDER)
        elif entry.is_dir(follow_symlinks=False):
            yield from image_files(root, path)
        elif PurePath(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield path
