"""What a model and people chose of two images, and what is said of it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pineco.evals.results.results import Interval

CHANCE = 0.5  # of two_afc and of accuracy
OF_PEOPLE = ("best_choice", "held_out_voter")  # figures that are of no model


@dataclass(frozen=True)
class Choices:
    """n triplets: how far a model finds the sides from the reference, and what people said."""

    left: np.ndarray  # (n,) float32: distance of the left image to the reference
    right: np.ndarray  # (n,) float32
    right_vote: np.ndarray  # (n,) float32 in [0, 1]: share of the voters who found `right` more similar
    votes: np.ndarray  # (n,) int64
    reference: np.ndarray  # (n,) int64: equal where the reference image is
    group: np.ndarray  # (n,) int8: number of the name in GROUPS, -1 where the table does not say

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class Figure:
    """value in [0, 1], the mean over so many triplets, with its 95 % bootstrap intervals."""

    value: float
    triplets: int
    interval: Interval  # triplets are drawn
    by_reference: Interval  # reference images are drawn, each with all its triplets: they are not independent


@dataclass(frozen=True)
class ShareBin:
    """Triplets whose majority has a share in (low, high]."""

    low: float
    high: float
    share: float  # the mean of the majority's: what one voter agrees with it
    agreement: Figure  # of the model with the majority
