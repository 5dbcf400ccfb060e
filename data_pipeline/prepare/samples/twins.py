"""Images with the same bytes under several names, found without reading those whose size is unique."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pineco.data_pipeline.prepare.outcome import RejectError
from pineco.data_pipeline.prepare.sources.image_source import ImageSource


def first_twins(images: ImageSource, paths: Sequence[str], threads: int) -> np.ndarray:
    """(P,) int64: for every path the number of the first one with the same content; its own for an image that is
    unique, or that cannot be had."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        try:
            by_size[images.size(path)].append(number)
        except RejectError:
            continue  # named when it is to be stored
    alike = [number for numbers in by_size.values() if len(numbers) > 1 for number in numbers]
    first: dict[bytes, int] = {}
    twins = np.arange(len(paths), dtype=np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for number, digest in zip(alike, pool.map(lambda n: _digest(images, paths[n]), alike), strict=True):
            if digest is not None:
                first[digest] = min(first.get(digest, number), number)
                twins[number] = first[digest]
    return twins


def _digest(images: ImageSource, path: str) -> bytes | None:
    try:
        return hashlib.sha256(images.read(path)).digest()
    except RejectError:
        return None  # named when it is to be stored
