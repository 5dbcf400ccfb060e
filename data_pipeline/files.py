"""Paths as a user writes them, and files that appear whole or not at all. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path


def user_place(text: str) -> str:
    """Return a folder or address with a leading ~ replaced by the home folder: no shell does it in --out=~/x."""
    return os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111 - Path would turn s3:// to s3:/


def user_path(text: str) -> Path:
    """Return a path with a leading ~ replaced by the home folder; for argparse's `type`."""
    return Path(user_place(text))


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step, so that neither a reader nor a crash ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
