"""Files with the same bytes under several names, found without reading files whose size is unique."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_pipeline.prepare.confine import resolve_below
from data_pipeline.prepare.outcome import RejectError


def first_twins(root: Path, paths: Sequence[str], threads: int) -> np.ndarray:
    """(P,) int64: for every path the number of the first one with the same content; its own for a file that is unique,
    missing or outside of root."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        try:
            by_size[resolve_below(root, path)[1].st_size].append(number)
        except RejectError:
            continue  # named when it is to be stored
    alike = [number for numbers in by_size.values() if len(numbers) > 1 for number in numbers]
    first: dict[bytes, int] = {}
    twins = np.arange(len(paths), dtype=np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for number, digest in zip(alike, pool.map(lambda n: _digest(root / paths[n]), alike), strict=True):
            first[digest] = min(first.get(digest, number), number)
            twins[number] = first[digest]
    return twins


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
