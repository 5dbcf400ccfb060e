"""CKA and RSA against restatements of their definitions, known properties, and what their intervals promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.block_features import BlockFeatures
from pineco.evals.representation.similarity import (
    CkaSums,
    Matrix,
    Ranks,
    cka_matrix,
    cosine_distances,
    layer_cka,
    linear_cka,
    rsa,
    rsa_matrix,
    spearman,
)
from pineco.evals.results.draws import image_counts, interval
from tests.support.rank_statistics import mean_ranks

BOTH = pytest.mark.parametrize("debiased", [True, False], ids=["debiased", "biased"])


def features(images: int = 40, width: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, width))


def related(images: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two that share some of what they hold."""
    x = features(images)
    return x, x @ features(7, 9, 1) + features(images, 9, 2)


def hsic_biased(k: np.ndarray, other: np.ndarray) -> float:
    """tr(K H L H) / (n - 1)², as Kornblith et al. write it."""
    n = len(k)
    centre = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ centre @ other @ centre) / (n - 1) ** 2


def hsic_debiased(k: np.ndarray, other: np.ndarray) -> float:
    """Song et al., eq. 5, with matrices of ones."""
    n = len(k)
    k, other, ones = k - np.diag(np.diag(k)), other - np.diag(np.diag(other)), np.ones(n)
    total = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ other) + total - 2 * ones @ k @ other @ ones / (n - 2)) / (n * (n - 3))


def restated(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    hsic = hsic_debiased if debiased else hsic_biased
    k, other = x @ x.T, y @ y.T
    return hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))


@BOTH
@pytest.mark.parametrize("images", [4, 5, 40])
def test_cka_is_its_definition(debiased: bool, images: int) -> None:
    """A figure would be called CKA that nobody else could reproduce."""
    x, y = related(images)
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(restated(x, y, debiased), abs=1e-10)


@BOTH
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_minibatches_give_the_same_value(debiased: bool, batch: int) -> None:
    """The figure would depend on the batch size, as the mean over batches of their CKA does, or on where they lie."""
    x, y = related()
    x, y = x + 30, 1e-3 * y - 5
    sums = summed(*((x[first : first + batch], y[first : first + batch]) for first in range(0, len(x), batch)))
    assert sums.value(debiased=debiased) == pytest.approx(linear_cka(x, y, debiased=debiased), abs=1e-10)


def summed(*batches: tuple[np.ndarray, np.ndarray]) -> CkaSums:
    sums = CkaSums()
    for x, y in batches:
        sums.add(x, y)
    return sums


@BOTH
def test_cka_knows_no_rotation_scale_or_place(debiased: bool) -> None:
    """Two models that differ in the axes of their features alone would be called different."""
    x, y = related()
    rotation = np.linalg.qr(features(7, 7, 3))[0]
    value = linear_cka(x, y, debiased=debiased)
    assert linear_cka(3.7 * x @ rotation - 2, 0.01 * y + 1, debiased=debiased) == pytest.approx(value, abs=1e-10)
    assert linear_cka(x, -2 * x @ rotation, debiased=debiased) == pytest.approx(1, abs=1e-10)
    assert 0.1 < value < 0.95
    stretched = x * np.array([10, 1, 1, 1, 1, 1, 1])
    assert linear_cka(x, stretched, debiased=debiased) < 0.9, "it is not invariant to any linear map"


def test_unrelated_features_are_near_0_only_when_debiased() -> None:
    """Wide models would look alike for being wide: 100 images of 400 features of noise each."""
    x, y = features(100, 400, 4), features(100, 400, 5)
    assert abs(linear_cka(x, y)) < 0.03
    assert linear_cka(x, y, debiased=False) > 0.7
    mean = np.mean([linear_cka(features(50, 100, 2 * seed), features(50, 100, 2 * seed + 1)) for seed in range(40)])
    assert abs(mean) < 0.01


def test_a_block_at_a_time_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is too large for one Gram matrix would get another figure."""
    x, y = related()
    whole = cka_matrix([x, y], draws=5)
    monkeypatch.setattr("pineco.evals.representation.similarity._BLOCK", 7 * len(x))
    monkeypatch.setattr("pineco.evals.representation.similarity._DRAWS_AT_ONCE", 2)
    part = cka_matrix([x, y], draws=5)
    for name in ("values", "low", "high"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name), abs=1e-12)


def drawn(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> float:
    """Debiased CKA of a draw written out: means over all fours of its rows in which no image stands twice."""
    rows = np.repeat(np.arange(len(counts)), counts)
    i, j, q, r = np.array([four for four in itertools.permutations(rows, 4) if len(set(four)) == 4]).T

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean(k[i, j] * other[i, j] + k[i, j] * other[q, r] - 2 * k[i, j] * other[i, q]))

    k, other = x @ x.T, y @ y.T
    own = hsic(k, k), hsic(other, other)
    return hsic(k, other) / np.sqrt(own[0] * own[1]) if min(own) > 0 else np.nan


def test_a_draw_of_cka_leaves_out_pairs_of_an_image_with_its_copy() -> None:
    """Every draw would be nearer to 1 than the figure, since copies are alike to any two models."""
    x, y = features(9, 3, 0), features(9, 2, 1) + features(9, 3, 0)[:, :2]
    expected = [drawn(x + 3, y, image_counts(1, draw, 9)) for draw in range(4)]
    assert np.isfinite(expected).all()
    matrix = cka_matrix([x, y - 7], seed=1, draws=4)
    assert (matrix.low[0, 1], matrix.high[0, 1]) == pytest.approx(interval(np.array(expected)), abs=1e-10)


def test_a_draw_of_biased_cka_is_that_of_the_set_written_out() -> None:
    """The interval would be of another figure."""
    x, y = related(12)
    draws = [np.repeat(np.arange(12), image_counts(0, draw, 12)) for draw in range(4)]
    expected = interval(np.array([restated(x[rows], y[rows], False) for rows in draws]))
    matrix = cka_matrix([x, y], draws=4, debiased=False)
    assert (matrix.low[0, 1], matrix.high[0, 1]) == pytest.approx(expected, abs=1e-10)


def test_rsa_is_its_definition() -> None:
    """RSA would not be the Spearman correlation of the upper triangles, for example with ties broken by their place."""
    x, y = np.round(features(15, 2), 0) + 0.5, features(15, 4, 1)
    x[3], x[9] = x[2], -x[2]
    upper = [(i, j) for i in range(15) for j in range(i + 1, 15)]
    distances = []
    for side in (x, y):
        cosine = [side[i] @ side[j] / np.sqrt((side[i] @ side[i]) * (side[j] @ side[j])) for i, j in upper]
        distances.append(np.round(1 - np.array(cosine), 12))
    assert len(set(distances[0])) < len(upper) / 2, "ties"
    assert cosine_distances(x) == pytest.approx(distances[0], abs=2e-12)
    expected = np.corrcoef(mean_ranks(distances[0]), mean_ranks(distances[1]))[0, 1]
    assert rsa(x, y) == pytest.approx(expected, abs=1e-10)


def test_ranks_of_a_draw_are_those_written_out() -> None:
    """Ties and copies would not share their mean rank."""
    rng = np.random.default_rng(0)
    values, other, weights = rng.integers(0, 6, 30), rng.integers(0, 9, 30), rng.integers(0, 4, 30)
    a, b = np.repeat(values, weights), np.repeat(other, weights)
    expected = mean_ranks(a) - (len(a) + 1) / 2
    assert np.repeat(Ranks(values).centred(weights), weights) == pytest.approx(expected, abs=1e-12)
    correlation = np.corrcoef(mean_ranks(a), mean_ranks(b))[0, 1]
    assert spearman(Ranks(values), Ranks(other), weights) == pytest.approx(correlation, abs=1e-12)


def test_rsa_agrees_with_scipy() -> None:
    """Another program's Spearman would give another figure."""
    stats = pytest.importorskip("scipy.stats")
    x, y = features(20, 3), features(20, 3, 1)
    expected = stats.spearmanr(cosine_distances(x), cosine_distances(y)).statistic
    assert rsa(x, y) == pytest.approx(expected, abs=1e-10)


def test_a_draw_of_rsa_leaves_out_pairs_of_an_image_with_its_copy() -> None:
    """Distances of 0 that all models share would draw every interval up to 1."""
    x, y = features(9, 3), features(9, 3, 1)
    expected = []
    for draw in range(4):
        rows = np.repeat(np.arange(9), image_counts(0, draw, 9))
        pairs = [(a, b) for a, b in itertools.combinations(rows, 2) if a != b]
        sides = [np.array([np.round(1 - s[a] @ s[b], 12) for a, b in pairs]) for s in map(unit, (x, y))]
        expected.append(np.corrcoef(mean_ranks(sides[0]), mean_ranks(sides[1]))[0, 1])
    matrix = rsa_matrix([x, y], draws=4)
    assert (matrix.low[0, 1], matrix.high[0, 1]) == pytest.approx(interval(np.array(expected)), abs=1e-10)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_rsa_knows_no_rotation_scale_or_length() -> None:
    """Models whose features differ in length or axes alone would be called different."""
    x = features()
    rotation = np.linalg.qr(features(7, 7, 3))[0]
    lengths = 0.1 + np.random.default_rng(1).random((40, 1))
    assert rsa(x, lengths * x @ rotation) == pytest.approx(1, abs=1e-6)
    assert abs(rsa(x, features(40, 7, 9))) < 0.15


def test_matrices_are_symmetric_and_the_same_each_time() -> None:
    """A figure of a report could not be had again, or would depend on which model is named first."""
    models = [features(30, 5), features(30, 5) + features(30, 5, 1), features(30, 4, 2)]
    for matrix in (cka_matrix, rsa_matrix):
        first, again = matrix(models, seed=3, draws=20), matrix(models, seed=3, draws=20)
        turned = matrix(models[::-1], seed=3, draws=20)
        for name in ("values", "low", "high"):
            table = getattr(first, name)
            assert np.array_equal(table, getattr(again, name))
            assert np.array_equal(table, table.T)
            assert table == pytest.approx(getattr(turned, name)[::-1, ::-1], abs=1e-12)
        assert np.diag(first.values) == pytest.approx(np.ones(3))
        assert (first.low <= first.values + 1e-12).all()
        assert (first.values <= first.high + 1e-12).all()
    other = cka_matrix(models, seed=4, draws=20)
    assert not np.array_equal(other.low, cka_matrix(models, seed=3, draws=20).low)


@pytest.mark.parametrize("matrix", [cka_matrix, rsa_matrix])
def test_the_interval_covers_the_truth_as_often_as_it_says(matrix: Callable[..., Matrix]) -> None:
    """A 95 % interval would be a word only: 100 sets of 60 images, and the truth from one of 3,000."""

    def pair(images: int, rng: np.random.Generator) -> list[np.ndarray]:
        shared = rng.normal(size=(images, 4))
        return [shared + rng.normal(size=(images, 4)), shared * np.array([2, 1, 1, 1]) + rng.normal(size=(images, 4))]

    rng = np.random.default_rng(0)
    truth = np.mean([matrix(pair(600, rng), draws=0).values[0, 1] for _ in range(5)])
    covered = []
    for seed in range(100):
        found = matrix(pair(60, rng), seed=seed, draws=100)
        covered.append(found.low[0, 1] <= truth <= found.high[0, 1])
    assert 0.87 <= np.mean(covered) <= 0.99


def test_only_the_pairs_asked_for_are_computed() -> None:
    """Curves of layers would cost the square of what they need."""
    matrix = cka_matrix([features(seed=s) for s in range(3)], draws=3, pairs=[(2, 0)])
    assert np.isfinite(matrix.values).sum() == 2
    assert matrix.to_dict()["values"][0] == [None, None, matrix.values[0, 2]]
    assert np.isnan(cka_matrix([features(), features(seed=1)], draws=0).low).all()


def test_layers_of_unlike_depth_meet_at_the_same_share() -> None:
    """The last layer of a small model would be compared to the middle of a large one."""
    first = [features(seed=s) for s in range(5)]
    found = layer_cka(first, [first[0], first[2], first[4]], draws=4)
    assert found["of_first"] == [0, 2, 4]
    assert found["cka"] == pytest.approx([1, 1, 1])
    assert len(found["low"]) == len(found["high"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:-1], r"\(40, 7\) and \(39, 7\)"),
        (lambda x: x[:, 0], "must be"),
        (lambda x: np.where(x == x[3, 2], np.nan, x), "NaN or infinity"),
        (lambda x: np.zeros_like(x) + 0.1, "model 2: no image differs"),
    ],
    ids=["images", "shape", "nan", "constant"],
)
def test_damaged_features_are_named(change: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    """NaN or a figure of rounding errors would stand in a report."""
    x = features()
    with pytest.raises(InputError, match=message):
        cka_matrix([x, change(x)], draws=0)
    with pytest.raises(InputError, match=r"NaN|must be|no image differs"):
        summed((x, change(x))).value()


def test_what_has_no_figure_is_refused() -> None:
    """A correlation of two points, or of vectors without direction, would be a number all the same."""
    x = features(3)
    with pytest.raises(InputError, match="3 images: linear CKA needs 4"):
        linear_cka(x, x)
    with pytest.raises(InputError, match="2 images: RSA needs 3"):
        rsa(x[:2], x[:2])
    with pytest.raises(InputError, match="1 of 3 images have features of zeros"):
        rsa(x, x * np.array([[1], [0], [1]]))
    with pytest.raises(InputError, match="model 2 put all images at one distance"):
        rsa(x, np.eye(3))
    with pytest.raises(InputError, match="a batch of 7 and 6 features after others"):
        summed((x, x), (x, x[:, :6]))
    assert np.isnan(interval(np.array([np.nan]))).all()


class Tower(nn.Module):
    """Blocks that add 1 to the tokens; like timm's where `prefix` is given, else like open_clip's."""

    def __init__(self, prefix: int | None, images_first: bool = True) -> None:
        super().__init__()
        blocks = nn.ModuleList([Add(), Add()])
        if prefix is None:
            transformer: Any = nn.Module()
            transformer.resblocks = blocks
            transformer.batch_first = images_first
            self.transformer = transformer
        else:
            self.blocks, self.num_prefix_tokens = blocks, prefix
            self.cls_token = nn.Parameter(torch.zeros(1)) if prefix else None
        self.all_blocks = blocks

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.all_blocks:
            tokens = block(tokens)
        return tokens


class Add(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens + 1


@pytest.mark.parametrize("images_first", [True, False])
@pytest.mark.parametrize("prefix", [None, 1, 5])
def test_blocks_are_heard(prefix: int | None, images_first: bool) -> None:
    """Register tokens would count as patches, or images and tokens change places."""
    tower = Tower(prefix, images_first)
    tokens = torch.arange(3.0 * 9 * 4).reshape(3, 9, 4)
    ordered = tokens if images_first or prefix is not None else tokens.transpose(0, 1)
    kinds: tuple[tuple[Literal["cls", "patch"], torch.Tensor], ...] = (
        ("cls", tokens[:, 0]),
        ("patch", tokens[:, prefix or 1 :].mean(dim=1)),
    )
    for kind, expected in kinds:
        heard = BlockFeatures(tower, "tower", kind)
        for part in ordered.split(2, dim=0 if ordered is tokens else 1):
            tower(part)
        for number, rows in enumerate(heard.rows, 1):
            assert torch.equal(rows.tensor(), expected + number)


def test_models_without_such_blocks_are_refused() -> None:
    """A convnet's pixels would be called a class token."""
    with pytest.raises(InputError, match="no plain vision transformer"):
        BlockFeatures(nn.Linear(2, 2), "linear", "cls")
    with pytest.raises(InputError, match="no class token; use --layers patch"):
        BlockFeatures(Tower(0), "tower", "cls")
    assert BlockFeatures(Tower(0), "tower", "patch").rows
