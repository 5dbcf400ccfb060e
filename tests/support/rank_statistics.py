"""Ranks with ties shared."""

from __future__ import annotations

import numpy as np


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """One more than how many are less, and half of the others that are equal."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])
