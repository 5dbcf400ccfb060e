"""Mean average precision against brute force in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.evals.zeroshot import multilabel as zm
from pineco.evals.zeroshot.outcomes import chance, metrics

NAME = "mean_average_precision"


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """One class: walks down the ranking and adds up the precision at each positive."""
    hits, total = 0, 0.0
    for place, image in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i]), start=1):
        if labels[image]:
            hits += 1
            total += hits / place
    return total / max(hits, 1)


def brute_force(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([average_precision(s, y) for s, y in zip(scores.T, labels.T, strict=True)]))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_figure_equals_brute_force_with_ties(images: int, classes: int, seed: int, share: float) -> None:
    """Broken order, ties, precision or classes without positives would show; small integers make ties exact."""
    rng = np.random.default_rng(seed)
    features, weights = rng.integers(-1, 2, (images, 3)), rng.integers(-1, 2, (classes, 3))
    labels = rng.random((images, classes)) < share
    outcomes = zm.multilabel_outcomes(
        torch.tensor(features).float(), torch.tensor(weights).float(), torch.tensor(labels)
    )
    assert metrics(outcomes) == pytest.approx({NAME: brute_force(features @ weights.T, labels)}, abs=1e-12)


def test_figure_of_many_images_equals_cumulative_precision() -> None:
    """Rounding would grow with the data set; the vectorised formula here is that of clip-benchmark, in float64."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.stack([torch.randperm(20_000, generator=generator).float() for _ in range(4)], dim=1)
    labels = torch.rand(20_000, 4, generator=generator) < torch.tensor([0.001, 0.01, 0.1, 0.9])
    expected = []
    for column, true in zip(scores.T, labels.T, strict=True):
        ranked = true[torch.sort(column, descending=True).indices].double()
        precision = ranked.cumsum(0) / torch.arange(1, 20_001)
        expected.append(((precision * ranked).sum() / ranked.sum()).item())
    assert metrics(zm.MultilabelOutcomes(scores, labels))[NAME] == pytest.approx(np.mean(expected), abs=1e-10)


def test_equal_scores_keep_the_order_of_the_data() -> None:
    """The figure would depend on the sorting algorithm, and two runs on the machine."""
    first = zm.MultilabelOutcomes(torch.zeros(4, 1), torch.tensor([[True], [False], [False], [False]]))
    last = zm.MultilabelOutcomes(torch.zeros(4, 1), torch.tensor([[False], [False], [False], [True]]))
    assert (metrics(first)[NAME], metrics(last)[NAME]) == pytest.approx((1.0, 0.25))


def test_a_class_without_positives_counts_as_zero() -> None:
    """The mean would be over fewer classes than clip-benchmark's, and so higher."""
    labels = torch.tensor([[True, False], [False, False]])
    outcomes = zm.MultilabelOutcomes(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), labels)
    assert metrics(outcomes)[NAME] == 0.5
    assert chance(outcomes)[NAME] == pytest.approx((1 + 0.5) / 2 / 2)
    nothing = zm.MultilabelOutcomes(outcomes.scores, torch.zeros(2, 2, dtype=torch.bool))
    assert metrics(nothing) == chance(nothing) == {NAME: 0.0}


@pytest.mark.parametrize(("images", "positives"), [(1, 1), (4, 1), (5, 2), (6, 3), (6, 6)])
def test_chance_is_the_mean_over_all_orders(images: int, positives: int) -> None:
    """The chance beside each figure would be wrong; here every order of the images is counted."""
    scores = np.arange(images)[::-1]
    every = [
        average_precision(scores, np.isin(np.arange(images), places))
        for places in itertools.combinations(range(images), positives)
    ]
    labels = torch.zeros(images, 1, dtype=torch.bool)
    labels[:positives] = True
    assert zm.multilabel_chance(labels)[NAME] == pytest.approx(np.mean(every))


def test_random_scores_reach_chance() -> None:
    """Chance and figure would not be of the same thing on data of real size and several classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(300, 8, generator=generator) < torch.linspace(0.02, 0.6, 8)
    figures = [
        metrics(zm.MultilabelOutcomes(torch.randn(300, 8, generator=generator), labels))[NAME] for _ in range(400)
    ]
    error = np.std(figures) / np.sqrt(len(figures))
    assert abs(np.mean(figures) - zm.multilabel_chance(labels)[NAME]) < 3 * error


def test_outcomes_that_do_not_fit_together_are_refused() -> None:
    """A diverged or foreign file would be sorted into some order and reported."""
    scores, labels = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    for bad in ((scores[:1], labels), (scores[:0], labels[:0]), (scores.double(), labels), (scores, labels.int())):
        with pytest.raises(ValueError, match=r"must pair up|float32 and bool"):
            zm.MultilabelOutcomes(*bad)
    with pytest.raises(ValueError, match="NaN"):
        zm.MultilabelOutcomes(scores + float("nan"), labels)
    with pytest.raises(InputError, match="diverged"):
        zm.multilabel_outcomes(torch.full((2, 4), float("nan")), torch.ones(3, 4), labels)
