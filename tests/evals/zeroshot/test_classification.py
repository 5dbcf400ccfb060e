"""Classification figures against brute force in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.evals.zeroshot import classification as zc
from pineco.evals.zeroshot.outcomes import chance, metrics


def brute_force(features: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """By sorting all scores stably, one image at a time."""
    order = [np.argsort(-(weights @ feature), kind="stable").tolist() for feature in features]
    top1 = [o[0] == y for o, y in zip(order, labels, strict=True)]
    recalls = [np.mean([t for t, y in zip(top1, labels, strict=True) if y == c]) for c in set(labels.tolist())]
    figures = {"acc1": np.mean(top1), "mean_per_class_recall": np.mean(recalls)}
    if len(weights) >= 5:
        figures["acc5"] = np.mean([y in o[:5] for o, y in zip(order, labels, strict=True)])
    return figures


def measure(features: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    return metrics(zc.classification_outcomes(features, weights, labels))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31), st.integers(1, 40))
def test_metrics_equal_brute_force_with_ties(images: int, classes: int, seed: int, chunk: int) -> None:
    """Broken ranks, ties, empty classes or chunk borders would show; small integers make ties exact."""
    rng = np.random.default_rng(seed)
    features, weights = rng.integers(-1, 2, (images, 3)), rng.integers(-1, 2, (classes, 3))
    labels = rng.integers(0, classes, images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zc, "CHUNK", chunk)
        found = measure(torch.tensor(features).float(), torch.tensor(weights).float(), torch.tensor(labels))
    assert found == pytest.approx(brute_force(features, weights, labels))


def test_metrics_equal_top_k_of_real_scores() -> None:
    """Our figures would not be those that clip-benchmark prints: topk for accuracy, argmax for recall."""
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.randn(500, 16, generator=generator), torch.randn(30, 16, generator=generator)
    labels = torch.randint(0, 25, (500,), generator=generator)  # five classes have no image
    best = torch.topk(100 * features @ weights.T, 5).indices
    hit = best[:, 0] == labels
    found = measure(features, weights, labels)
    assert found == pytest.approx(
        {
            "acc1": hit.float().mean().item(),
            "acc5": sum(y in row for y, row in zip(labels.tolist(), best.tolist(), strict=True)) / 500,
            "mean_per_class_recall": np.mean([hit[labels == c].float().mean().item() for c in range(25)]),
        },
        abs=1e-6,
    )


def test_outcomes_keep_the_file_order() -> None:
    """Two models would be compared image by image, but on different images."""
    weights = torch.eye(3)
    outcomes = zc.classification_outcomes(torch.eye(3)[[2, 0, 1, 0]], weights, torch.tensor([2, 1, 1, 2]))
    assert outcomes.ranks.tolist() == [0, 1, 0, 2]
    assert outcomes.labels.tolist() == [2, 1, 1, 2]


def test_few_classes_have_no_acc5() -> None:
    """acc5 of four classes would be 100 % for any model and lift an average."""
    outcomes = zc.classification_outcomes(torch.eye(4), torch.eye(4), torch.arange(4))
    assert metrics(outcomes) == {"acc1": 1.0, "mean_per_class_recall": 1.0}
    assert set(chance(outcomes)) == set(metrics(outcomes))
    assert zc.classification_chance(5)["acc5"] == 1.0


def test_a_collapsed_encoder_scores_chance() -> None:
    """If ties counted as hits, a model that maps everything to one point would score 100 %."""
    outcomes = zc.classification_outcomes(torch.ones(30, 2), torch.ones(10, 2), torch.arange(10).repeat(3))
    assert metrics(outcomes) == pytest.approx(chance(outcomes))


def test_recall_weighs_classes_equally() -> None:
    """On unbalanced data mean_per_class_recall would turn into accuracy."""
    features = torch.eye(2)[torch.tensor([0, 0, 0, 0])]
    found = measure(features, torch.eye(2), torch.tensor([0, 0, 0, 1]))
    assert found == {"acc1": 0.75, "mean_per_class_recall": 0.5}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    """A diverged checkpoint would be reported as perfect: no score is greater than NaN."""
    features = torch.eye(3)
    features[1, 1] = bad
    with pytest.raises(InputError, match="diverged"):
        measure(features, torch.eye(3), torch.arange(3))


@pytest.mark.parametrize(
    ("labels", "ranks"), [([0, 3], [0, 0]), ([0, -1], [0, 0]), ([0, 1], [0, 3]), ([0], [0, 0]), ([], [])]
)
def test_outcomes_that_do_not_fit_together_are_refused(labels: list[int], ranks: list[int]) -> None:
    """A label beyond the classes would be counted for another class or for none."""
    with pytest.raises(ValueError, match=r"there are 3 classes|must pair up"):
        zc.ClassificationOutcomes(
            torch.tensor(labels, dtype=torch.int64), torch.tensor(ranks, dtype=torch.int64), classes=3
        )


def unit_rows(rows: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, 5, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 4, 1), (3, 1, 2), (6,)])
def test_class_weights_average_normalised_prompts(counts: tuple[int, ...]) -> None:
    """Prompts of different classes would be mixed, or the ensemble would not have unit length."""
    prompts = unit_rows(6)
    ends = np.cumsum(counts)
    expected = np.stack([prompts[e - c : e].numpy().mean(0) for e, c in zip(ends, counts, strict=True)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(zc.class_weights(prompts, counts).numpy(), expected, rtol=1e-6)


def test_a_classs_weight_does_not_depend_on_the_other_classes() -> None:
    """The same prompts would make another classifier where some other class has prompts of its own."""
    prompts = unit_rows(12)
    alone = zc.class_weights(prompts, (4, 4, 4))
    assert torch.equal(zc.class_weights(prompts, (4, 4, 3, 1))[:2], alone[:2])


@pytest.mark.parametrize("counts", [(2, 2), (3, 0, 3), (3, 4)])
def test_counts_that_do_not_fit_the_prompts_are_refused(counts: tuple[int, ...]) -> None:
    """A class would be described by the prompts of its neighbour, or by none."""
    with pytest.raises(ValueError, match="6 prompts"):
        zc.class_weights(unit_rows(6), counts)


def test_prompts_are_grouped_by_class() -> None:
    """class_weights would average over classes instead of over templates."""
    assert zc.class_prompts(("cat", "{c}at"), ("a {c}", "{c}!")) == ["a cat", "cat!", "a {c}at", "{c}at!"]
