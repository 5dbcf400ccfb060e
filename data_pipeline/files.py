"""Paths as a user writes them, and files that appear whole or not at all. Torch-free."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP)  # of file systems that cannot flush a folder


def user_place(text: str) -> str:
    """Return a folder or address with a leading ~ replaced by the home folder: no shell does it in --out=~/x."""
    return os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111 - Path would turn s3:// to s3:/


def user_path(text: str) -> Path:
    """Return a path with a leading ~ replaced by the home folder; for argparse's `type`."""
    return Path(user_place(text))


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, for a file or a folder that takes the place of `path` in one step.

    Neither a reader nor a crash ever sees half of it. After an error the temporary is removed and `path` is as it was.
    A folder takes the place of nothing or of an empty folder. sync: it is on the disk when the block has ended, and
    at no moment is its name on the disk without its bytes.
    """
    # Random and not the process id: containers and nodes that share a folder have the same ids.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        if sync:
            flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise
    if sync:
        _flush_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step, so that neither a reader nor a crash ever sees half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def flush_to_disk(path: Path) -> None:
    """Returns once a file, or everything in a folder, is on the disk. Raises OSError, also for a full disk."""
    if path.is_dir():
        for entry in path.iterdir():
            flush_to_disk(entry)
        _flush_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Has the names in a folder, not only the files, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Takes away a file or a folder, as far as the disk lets it: the error before this one is the one to tell."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
