"""Two-alternative forced choice: which of two images is nearer to a third, as a model says and as people do.

The score is DreamSim's (Fu et al. 2023, arXiv 2306.09344): the mean over triplets of the share of people who chose the
image that the model finds nearer, one half where it finds none nearer. All figures here are means over triplets, so
that one function of how often each triplet counts gives both a figure and a resample of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.triplets.table import GROUPS
from pineco.evals.results.draws import DRAWS, Difference, interval, resamples
from pineco.evals.triplets.choices import OF_PEOPLE, Choices, Figure, ShareBin

SHARE_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # bins of the majority's share, each with its upper end
_WHOLE = 0.01  # a share of n votes is that of k voters where it is within 1 % of k / n: tables round


@dataclass(frozen=True)
class Mean:
    """The mean of `worth` over triplets, each with its weight."""

    worth: np.ndarray  # (n,) float64, 0 where the weight is
    weight: np.ndarray  # (n,) float64, 0 where a triplet does not count


def score(choices: Choices) -> np.ndarray:
    """(n,) float64: the share of people who chose as the model does; one half where both distances are the same."""
    right = choices.right_vote.astype(np.float64)
    chosen = np.where(choices.left < choices.right, 1 - right, right)
    return np.where(choices.left == choices.right, 0.5, chosen)


def means(choices: Choices) -> dict[str, Mean]:
    """By name:

    two_afc: DreamSim's score over all triplets, undecided ones (right_vote of one half) included, which give one half
    to any model. It is also the mean of the parts, weighted with their sizes, as DreamSim gives its test split.
    two_afc_imagenet, two_afc_no_imagenet: its parts, where there are both.
    accuracy: whether the model chooses as the majority; undecided triplets have none and do not count.
    best_choice: max(p, 1 - p), the score of a chooser who knows the shares: no model can have more on these votes. On
    new votes nobody expects as much; where each triplet has one voter it is 1.
    held_out_voter: see `held_out_agreement`.
    """
    points, ones = score(choices), np.ones(len(choices))
    found = {"two_afc": Mean(points, ones), "accuracy": Mean(agreement(choices), _decided(choices))}
    parts = {f"two_afc_{name}": (choices.group == number).astype(np.float64) for number, name in enumerate(GROUPS)}
    if all(part.any() for part in parts.values()):
        found |= {name: Mean(points * part, part) for name, part in parts.items()}
    share = np.maximum(choices.right_vote, 1 - choices.right_vote).astype(np.float64)
    found |= {"best_choice": Mean(share, ones), "held_out_voter": held_out_agreement(choices)}
    return {name: mean for name, mean in found.items() if mean.weight.any()}


def agreement(choices: Choices) -> np.ndarray:
    """(n,) float64: 1 where the model chooses as the majority, 1/2 where it does not choose, 0 without a majority."""
    with_right, majority = choices.right < choices.left, choices.right_vote > 0.5
    found = np.where(choices.left == choices.right, 0.5, with_right == majority)
    return found * _decided(choices)


def held_out_agreement(choices: Choices) -> Mean:
    """The score of a chooser who knows all votes of a triplet but the one that it is scored on: each in turn.

    Of n voters k chose the right image. One of those k meets k - 1 others of n - 1 who chose as he did, one of the rest
    n - k - 1: k / n a(k - 1) + (n - k) / n a(n - k - 1), where a(j) is 1 for j > (n - 1) / 2, one half for equality and
    0 else. Where the voters of a triplet are alike and independent, the expected score of the best chooser on new votes
    is at least this, since a majority of few is often wrong, and at most `best_choice`, which judges each voter by his
    own vote, too. Triplets with one voter, and those whose share is none of n votes, do not count.
    """
    share, voters = choices.right_vote.astype(np.float64), choices.votes.astype(np.float64)
    right = np.round(share * voters)
    known = (voters >= 2) & (np.abs(share * voters - right) <= _WHOLE * voters)
    others = np.maximum(voters - 1, 1)

    def agrees(alike: np.ndarray) -> np.ndarray:
        return np.where(2 * alike > others, 1.0, np.where(2 * alike == others, 0.5, 0.0))

    worth = (right * agrees(right - 1) + (voters - right) * agrees(voters - right - 1)) / np.maximum(voters, 1)
    return Mean(np.where(known, worth, 0.0), known.astype(np.float64))


def figures(choices: Choices, *, seed: int, draws: int = DRAWS) -> dict[str, Figure]:
    """Every mean of `means` with its intervals. A pure function of its arguments."""
    return _figures(means(choices), choices.reference, seed, draws)


def by_share(choices: Choices, *, seed: int, draws: int = DRAWS) -> tuple[ShareBin, ...]:
    """How often the model agrees with the majority, by the majority's share; bins without triplets are left out."""
    share = np.maximum(choices.right_vote, 1 - choices.right_vote).astype(np.float64)
    place = np.searchsorted(np.array(SHARE_EDGES), share - 1e-6, side="left")  # shares of float32: 0.6 is 0.60000002
    agrees, decided = agreement(choices), _decided(choices)
    inside = {str(number): decided * (place == number) for number in range(1, len(SHARE_EDGES))}
    parts = {name: Mean(agrees * part, part) for name, part in inside.items() if part.any()}
    found = _figures(parts, choices.reference, seed, draws)
    return tuple(
        ShareBin(
            SHARE_EDGES[int(name) - 1],
            SHARE_EDGES[int(name)],
            float(share @ parts[name].weight / parts[name].weight.sum()),
            figure,
        )
        for name, figure in found.items()
    )


def differences(
    a: Choices, b: Choices, *, seed: int, draws: int = DRAWS, by_reference: bool = False
) -> dict[str, Difference]:
    """Each figure of the model `a` less that of `b`; every draw takes the same triplets, or references, of both.

    Raises InputError where the two were not asked about the same triplets.
    """
    if not (np.array_equal(a.right_vote, b.right_vote) and np.array_equal(a.votes, b.votes)):
        raise InputError("two models cannot be compared: the votes differ; measure both on the same triplets")
    units = a.reference if by_reference else np.arange(len(a))
    all_a, all_b = means(a), means(b)
    names = [name for name in all_a if name in all_b and name not in OF_PEOPLE]
    of_a, of_b = ({name: found[name] for name in names} for found in (all_a, all_b))
    values = [_value(of_a[name]) - _value(of_b[name]) for name in names]
    gaps = _draws(of_a, units, seed, draws) - _draws(of_b, units, seed, draws)
    return {name: Difference(value, *interval(gap)) for name, value, gap in zip(names, values, gaps.T, strict=True)}


def _decided(choices: Choices) -> np.ndarray:
    return (choices.right_vote != 0.5).astype(np.float64)


def _figures(parts: Mapping[str, Mean], reference: np.ndarray, seed: int, draws: int) -> dict[str, Figure]:
    if not parts:
        return {}
    one = _draws(parts, np.arange(len(reference)), seed, draws)
    many = _draws(parts, reference, seed, draws)
    return {
        name: Figure(_value(mean), int(mean.weight.sum()), interval(one[:, n]), interval(many[:, n]))
        for n, (name, mean) in enumerate(parts.items())
    }


def _value(mean: Mean) -> float:
    return float(mean.worth.sum() / mean.weight.sum())


def _draws(parts: Mapping[str, Mean], units: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """(draws, K): the K means of each resample of units, (n,) int; NaN where a resample has no triplet that counts."""
    names, place = np.unique(units, return_inverse=True)
    sums = np.stack([_by_unit(array, place, len(names)) for m in parts.values() for array in (m.worth, m.weight)])
    found = np.full((draws, len(parts)), np.nan)
    for row, counts in zip(found, resamples(seed, draws, len(names)), strict=True):
        worth, weight = (sums @ counts.astype(np.float64)).reshape(-1, 2).T
        np.divide(worth, weight, out=row, where=weight > 0)
    return found


def _by_unit(array: np.ndarray, place: np.ndarray, units: int) -> np.ndarray:
    return np.bincount(place, weights=array, minlength=units)
