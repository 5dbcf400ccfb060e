"""Bootstrap intervals: every draw against an explicit resample, and the intervals against what they promise."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch

from pineco.data_pipeline.errors import InputError
from pineco.evals.results.draws import image_counts
from pineco.evals.zeroshot.intervals import difference, intervals
from pineco.evals.zeroshot.outcomes import (
    ClassificationOutcomes,
    MultilabelOutcomes,
    Outcomes,
    RetrievalOutcomes,
    metrics,
    statistic,
)
from tests.support.outcomes import MAKE, Make, classification, multilabel, retrieval

GOLDEN = (
    [0, 2, 0, 1, 2, 1, 1, 0, 1, 2, 0, 2],
    [0, 1, 0, 0, 1, 0, 3, 2, 2, 1, 1, 1],
)  # of seed 0, draw 0 and of seed 7, draw 999


def hits(right: np.ndarray) -> ClassificationOutcomes:
    """A two-class task that gets exactly `right` (N,) bool right."""
    return ClassificationOutcomes(torch.arange(len(right)) % 2, torch.tensor(~right).long(), classes=2)


def repeated(outcomes: Outcomes, counts: np.ndarray) -> Outcomes:
    """The data set that holds image i counts[i] times, written out."""
    times = torch.tensor(counts)
    if isinstance(outcomes, ClassificationOutcomes):
        again = outcomes.labels.repeat_interleave(times), outcomes.ranks.repeat_interleave(times)
        return ClassificationOutcomes(*again, outcomes.classes)
    if isinstance(outcomes, MultilabelOutcomes):
        return MultilabelOutcomes(
            outcomes.scores.repeat_interleave(times, dim=0), outcomes.labels.repeat_interleave(times, dim=0)
        )
    images = torch.arange(len(times)).repeat_interleave(times).tolist()
    texts = [torch.nonzero(outcomes.image_of_text == image).flatten() for image in images]
    owner = torch.arange(len(images)).repeat_interleave(torch.tensor([len(t) for t in texts]))
    return RetrievalOutcomes(outcomes.image_ranks[torch.cat(texts)], outcomes.text_ranks[images], owner)


@MAKE
def test_a_draw_is_the_figure_of_the_data_set_written_out(make: Make) -> None:
    """An interval would be of something else than the metric: a wrong unit, wrong weights or lost copies."""
    outcomes = make()
    of = statistic(outcomes)
    for draw in range(20):
        counts = image_counts(3, draw, {classification: 40, retrieval: 12, multilabel: 20}[make])
        assert of(counts) == pytest.approx(metrics(repeated(outcomes, counts)), abs=1e-12)


def test_a_class_that_was_not_drawn_is_left_out() -> None:
    """Every resample of a rare class would pull the interval below the figure that it belongs to."""
    scores = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([[True, False], [True, False], [False, True]])
    of = statistic(MultilabelOutcomes(scores, labels))
    assert of(np.array([2, 1, 0])) == {"mean_average_precision": 1.0}
    nobody = statistic(MultilabelOutcomes(scores, torch.tensor([[True, False], [False, False], [False, False]])))
    assert nobody(np.array([0, 1, 2])) == {"mean_average_precision": 0.0}
    recall = statistic(ClassificationOutcomes(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), classes=2))
    assert recall(np.array([1, 2, 0]))["mean_per_class_recall"] == pytest.approx(1 / 3)


def test_draws_are_a_pure_function_of_seed_and_number() -> None:
    """Intervals would change with the machine, with what was drawn before or with another release of numpy."""
    assert image_counts(0, 0, 12).tolist() == GOLDEN[0]
    assert image_counts(7, 999, 12).tolist() == GOLDEN[1]
    assert len({tuple(image_counts(seed, draw, 50)) for seed in range(5) for draw in range(5)}) == 25
    outcomes = classification()
    assert intervals(outcomes, seed=1) == intervals(outcomes, seed=1)
    assert intervals(outcomes, seed=1) != intervals(outcomes, seed=2)


def test_draws_are_multinomial() -> None:
    """Some images would weigh more than others, or an interval be too narrow."""
    counts = np.stack([image_counts(0, draw, 101) for draw in range(4000)])
    assert (counts.sum(axis=1) == 101).all()
    mean_error = np.sqrt((1 - 1 / 101) / 4000)
    assert np.abs(counts.mean(axis=0) - 1).max() < 4 * mean_error
    assert counts.var() == pytest.approx(1 - 1 / 101, rel=0.01)
    covariance = np.cov(counts.T)[~np.eye(101, dtype=bool)].mean()
    assert covariance == pytest.approx(-1 / 101, rel=0.01)


def test_the_interval_is_as_wide_as_the_binomial_says() -> None:
    """An interval would promise more or less than it holds, whatever the coverage of a small case."""
    right = np.arange(4000) % 10 < 3
    low, high = intervals(hits(right), seed=0, draws=2000)["acc1"]
    half = 1.96 * np.sqrt(0.3 * 0.7 / 4000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.1 * half)


def test_captions_of_an_image_are_one_unit() -> None:
    """Five captions that rise and fall together would count as five witnesses: an interval less than half as wide."""
    images = 200
    ranks = torch.where(torch.arange(images) % 2 == 0, 0, 20)
    together = RetrievalOutcomes(ranks.repeat_interleave(5), ranks, torch.arange(images).repeat_interleave(5))
    alone = RetrievalOutcomes(ranks, ranks, torch.arange(images))
    name = "image_retrieval_recall@1"
    assert intervals(together, seed=0)[name] == intervals(alone, seed=0)[name]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """A 95 % interval would be a word only; 250 measurements of a model that is right in 70 % of all cases."""
    rng = np.random.default_rng(0)
    covered = []
    for repetition in range(250):
        low, high = intervals(hits(rng.random(200) < 0.7), seed=repetition, draws=250)["acc1"]
        covered.append(low <= 0.7 <= high)
    assert 0.92 <= np.mean(covered) <= 0.975


def test_the_paired_interval_covers_the_true_difference() -> None:
    """Two models would be told apart, or not, more often than the interval says; a gets .7 right, b .6, dependently."""
    rng = np.random.default_rng(1)
    covered = []
    for repetition in range(150):
        luck = rng.random(200)
        a, b = hits(luck < 0.7), hits((luck < 0.5) | (luck > 0.9))
        _, low, high = difference(a, b, "acc1", seed=repetition, draws=200)
        covered.append(low <= 0.1 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_pairing_takes_out_what_both_models_share() -> None:
    """Which images are hard would hide a difference of one point between two models that agree on most of them."""
    hard = np.arange(5000) % 2 == 0
    better, worse = hits(~hard | (np.arange(5000) % 100 == 0)), hits(~hard)
    value, low, high = difference(better, worse, "acc1", seed=0)
    assert value == pytest.approx(0.01)
    assert 0 < low < value < high < 0.015
    alone = intervals(worse, seed=0)["acc1"]
    assert high - low < 0.3 * (alone[1] - alone[0])
    assert difference(worse, better, "acc1", seed=0) == pytest.approx((-value, -high, -low))


@MAKE
def test_a_model_does_not_differ_from_itself(make: Make) -> None:
    """The draws of the two would not be the same."""
    for metric in metrics(make()):
        assert difference(make(), make(), metric, seed=4, draws=50) == (0, 0, 0)


@MAKE
def test_intervals_name_every_metric(make: Make) -> None:
    """A report would show a figure without its interval."""
    outcomes = make()
    found, values = intervals(outcomes, seed=0, draws=100), metrics(outcomes)
    assert list(found) == list(values)
    for name, (low, high) in found.items():
        assert 0 <= low <= values[name] <= high <= 1
        assert low < high or values[name] in (0, 1)  # no draw of misses alone holds a hit


def test_a_certain_figure_has_a_point_as_interval() -> None:
    """A perfect model would be reported with a share above 1."""
    perfect = dataclasses.replace(classification(), ranks=torch.zeros(40, dtype=torch.int64))
    assert set(intervals(perfect, seed=0, draws=200).values()) == {(1.0, 1.0)}
    best = dataclasses.replace(multilabel(), scores=multilabel().labels.float())
    assert intervals(best, seed=0, draws=200) == {"mean_average_precision": (1.0, 1.0)}


def test_what_cannot_be_compared_is_refused() -> None:
    """A difference of unrelated figures would be printed, or a typing error end in a traceback."""
    with pytest.raises(InputError, match="cannot be paired"):
        difference(classification(), classification(images=41), "acc1", seed=0)
    with pytest.raises(InputError, match=r"'acc2' here; there are acc1, acc5, mean_per_class_recall"):
        difference(classification(), classification(), "acc2", seed=0)
    with pytest.raises(ValueError, match="one at least"):
        intervals(classification(), seed=0, draws=0)


def test_memory_does_not_grow_with_the_number_of_draws() -> None:
    """A thousand draws of ImageNet at once would take 400 MB beside a training run."""
    outcomes = classification(images=50_000, classes=1000)
    peaks = []
    for draws in (2, 40):
        tracemalloc.start()
        intervals(outcomes, seed=0, draws=draws)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 20e6
