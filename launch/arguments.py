"""What the command lines of evaluations share: numbers that must be positive, and where a report may go."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_pipeline.errors import InputError


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
