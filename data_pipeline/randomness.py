"""Random numbers that are a pure function of integers, never of a worker, a rank or what was drawn before."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a random number is for; two streams with the same seed share nothing. Values are part of every run."""

    EXTENTS = 1
    BLOCK = 2
    AUGMENTATION = 3
    CAPTION = 4
    SHUFFLED_VOTES = 5
    SUBSTITUTE = 6
    SIDES = 7
    REFERENCES = 8
    QUEUE = 9
    SHARE = 10
    CLASS_TRIPLETS = 11


def bits(seed: int, stream: Stream, *numbers: int) -> np.random.Philox:
    """The counter-based bit generator of (seed, stream, up to three numbers); each has 2**64 draws of its own."""
    counter = (0, *numbers, *(0,) * (3 - len(numbers)))
    return np.random.Philox(key=np.array((seed, stream), np.uint64), counter=np.array(counter, np.uint64))


def generator(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    return np.random.Generator(bits(seed, stream, *numbers))


def permutation(n: int, seed: int, stream: Stream, *numbers: int) -> np.ndarray:
    """A permutation of 0..n-1, (n,) int64.

    Sorts raw 64-bit draws instead of calling Generator.permutation, because numpy promises the bit stream for ever
    but lets its distributions change between releases, and a run must resume after an upgrade.
    """
    return np.argsort(bits(seed, stream, *numbers).random_raw(n), kind="stable")
