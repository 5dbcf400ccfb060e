"""What the commands of `pineco eval` share: what they say while they work, and the files that they leave."""

from __future__ import annotations

import logging
from pathlib import Path

from pineco.data_pipeline.files import write_text_atomically


def log_evaluation() -> None:
    """Lines on stderr: warnings of all, and what the evaluation itself says."""
    logging.basicConfig(level=logging.WARNING, format="pineco: %(message)s")
    logging.getLogger("pineco.evals").setLevel(logging.INFO)


def write_texts(path: Path, *, markdown: str, json: str) -> None:
    """`path` comes last, after all that stands beside it: where it is, all is."""
    write_text_atomically(path.with_suffix(".md"), markdown)
    write_text_atomically(path, json)


def print_paths(path: Path, picture: str) -> None:
    """The report, the same for people, and its picture with this suffix."""
    print("\n".join(str(path.with_suffix(suffix)) for suffix in (".json", ".md", picture)))
