"""Intersection over union from counts, its interval, and the difference of two models."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.evals.results.draws import image_counts
from pineco.evals.segmentation.miou import (
    ConfusionCounter,
    Confusions,
    assign,
    chance,
    class_iou,
    confusion,
    difference,
    intervals,
    matched_miou,
    mean_class_iou,
    metrics,
)

Pairs = list[tuple[np.ndarray, np.ndarray]]


def counted(pairs: Pairs, classes: int) -> Confusions:
    counter = ConfusionCounter(classes)
    for truth, prediction in pairs:
        counter.add(truth, prediction)
    return counter.result()


def random_pairs(number: int, classes: int, *, right: float, seed: int) -> Pairs:
    """Images of 6 x 5 pixels, a tenth of them void; `right` of the pixels are predicted as they are."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(number):
        truth = rng.integers(0, classes, (6, 5)).astype(np.uint8)
        prediction = np.where(rng.random((6, 5)) < right, truth, rng.integers(0, classes, (6, 5))).astype(np.uint8)
        truth[rng.random((6, 5)) < 0.1] = 255
        pairs.append((truth, prediction))
    return pairs


def by_sets(pairs: Pairs, classes: int) -> list[float]:
    """IoU of each class as the words say it: pixels that both call c, over pixels that either calls c."""
    truth, prediction = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    places = [p for p in range(len(truth)) if truth[p] != 255]
    shares = []
    for c in range(classes):
        one, other = {p for p in places if truth[p] == c}, {p for p in places if prediction[p] == c}
        shares.append(len(one & other) / len(one | other) if one | other else float("nan"))
    return shares


def test_counts_are_exact_and_void_counts_nowhere() -> None:
    """Figures would drift with rounding, or void pixels would count as mistakes."""
    truth = np.array([[0, 0, 1], [255, 2, 1]], np.uint8)
    prediction = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    matrix = confusion(truth, prediction, 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    found = counted([(truth, prediction)], 3)
    assert class_iou(found).tolist() == [1 / 3, 1 / 3, 1]
    assert metrics(found) == pytest.approx({"miou": 5 / 9, "pixel_accuracy": 3 / 5})


def test_figures_are_those_of_the_definition() -> None:
    """IoU would be computed per image and averaged, or with another union."""
    pairs = random_pairs(9, 5, right=0.6, seed=3)
    found = counted(pairs, 5)
    assert class_iou(found) == pytest.approx(by_sets(pairs, 5), abs=1e-15)
    assert metrics(found)["miou"] == pytest.approx(np.mean(by_sets(pairs, 5)), abs=1e-15)


def test_mean_is_over_the_classes_that_occur() -> None:
    """A class that no image has would pull every mIoU down; one that is only predicted would cost nothing."""
    truth, prediction = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 2]], np.uint8)
    found = counted([(truth, prediction)], 4)
    iou = class_iou(found)
    assert iou[:3].tolist() == [1, 0.5, 0]
    assert np.isnan(iou[3])
    assert metrics(found)["miou"] == 0.5
    assert mean_class_iou([found]) == [1, 0.5, 0, None]


@pytest.mark.parametrize(("where", "value"), [("truth", 3), ("prediction", 3), ("prediction", 255)])
def test_a_number_that_is_no_class_is_refused(where: str, value: int) -> None:
    """It would be counted as another class: the row and column of a flat index run into each other."""
    pair = {"truth": np.zeros((2, 2), np.uint8), "prediction": np.zeros((2, 2), np.uint8)}
    pair[where][0, 1] = value
    with pytest.raises(ValueError, match="none of the 3 classes"):
        confusion(pair["truth"], pair["prediction"], 3)


def test_nothing_but_void_is_no_figure() -> None:
    """0 / 0 would be reported as a number."""
    with pytest.raises(InputError, match="all are void"):
        counted([(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))], 2)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_assignment_is_the_best_of_all(n: int) -> None:
    """A matched mIoU would be lower than that of the code it is compared to."""
    rng = np.random.default_rng(n)
    for cost in (*rng.random((20, n, n)), *rng.integers(0, 3, (20, n, n)).astype(float), np.zeros((n, n))):
        columns = assign(cost)
        assert sorted(columns) == list(range(n))
        best = min(sum(cost[row, c] for row, c in enumerate(order)) for order in permutations(range(n)))
        assert sum(cost[row, c] for row, c in enumerate(columns)) == pytest.approx(best, abs=1e-12)


def test_matching_forgives_other_numbers_and_counts_absent_classes_as_0() -> None:
    """miou_matched would not be open-hummingbird-eval's figure."""
    truth = np.array([[0, 1, 2, 2]], np.uint8)
    found = counted([(truth, np.array([2, 0, 1, 9], np.uint8)[truth])], 4)
    assert metrics(found)["miou"] == 0
    assert matched_miou(found) == 3 / 4


def test_chance_is_the_commonest_class_everywhere() -> None:
    """A figure would look good, or bad, against the wrong yardstick."""
    pairs = random_pairs(9, 4, right=0.3, seed=5)
    found = counted(pairs, 4)
    commonest = int(found.truth.sum(0).argmax())
    constant = counted([(truth, np.full_like(truth, commonest)) for truth, _ in pairs], 4)
    assert chance(found) == pytest.approx(metrics(constant))


def test_interval_is_that_of_drawn_images() -> None:
    """The interval would be of pixels, which are far from independent, or of means of per-image IoU."""
    pairs = random_pairs(12, 3, right=0.5, seed=6)
    runs = [counted(pairs, 3), counted([(t, p[::-1]) for t, p in pairs], 3)]
    values = []
    for draw in range(40):
        images = [i for i, times in enumerate(image_counts(7, draw, 12)) for _ in range(times)]
        shares = [np.nanmean(by_sets([(pairs[i][0], pairs[i][1][::step]) for i in images], 3)) for step in (1, -1)]
        values.append(np.mean(shares))
    expected = tuple(np.quantile(values, (0.025, 0.975)))
    assert intervals(runs, seed=7, draws=40)["miou"] == pytest.approx(expected, abs=1e-12)


def test_a_perfect_model_has_a_point_as_its_interval() -> None:
    """A class that a draw lacks would count as 0 in that draw."""
    pairs = [(np.full((2, 2), c, np.uint8),) * 2 for c in range(4)]
    assert intervals([counted(pairs, 4)], seed=0)["miou"] == (1, 1)


def test_difference_is_paired() -> None:
    """Models that differ a little on every image would look equal: most of an interval is the images' difficulty."""
    rng = np.random.default_rng(8)
    hard, better, worse = rng.random(40), [], []
    for share in hard:
        truth = rng.integers(0, 3, (20, 20)).astype(np.uint8)
        wrong = rng.random((20, 20))
        worse.append((truth, np.where(wrong < share, (truth + 1) % 3, truth)))
        better.append((truth, np.where(wrong < share - 0.02, (truth + 1) % 3, truth)))
    a, b = [counted(better, 3)], [counted(worse, 3)]
    found = difference(a, b, seed=1)
    assert 0 < found.low < found.value < found.high
    assert intervals(b, seed=1)["miou"][1] > metrics(a[0])["miou"]
    assert difference(a, a, seed=1) == (0, 0, 0)
    assert difference(b, a, seed=1).value == -found.value


def test_models_measured_on_other_masks_are_not_compared() -> None:
    """The difference of two data sets would be called a difference of two models."""
    a, b = (counted(random_pairs(4, 3, right=1, seed=seed), 3) for seed in (1, 2))
    with pytest.raises(InputError, match="the masks differ"):
        difference([a], [b], seed=0)
