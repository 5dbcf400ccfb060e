"""Classification figures against brute force in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from evals import zeroshot_classification as zc


def brute_force(features: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """By sorting all scores stably, one image at a time."""
    order = [np.argsort(-(weights @ feature), kind="stable").tolist() for feature in features]
    top1 = [o[0] == y for o, y in zip(order, labels, strict=True)]
    recalls = [np.mean([t for t, y in zip(top1, labels, strict=True) if y == c]) for c in set(labels.tolist())]
    figures = {"acc1": np.mean(top1), "mean_per_class_recall": np.mean(recalls)}
    if len(weights) >= 5:
        figures["acc5"] = np.mean([y in o[:5] for o, y in zip(order, labels, strict=True)])
    return figures


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31), st.integers(1, 8))
def test_metrics_equal_brute_force_with_ties(images: int, classes: int, seed: int, chunk: int) -> None:
    """Broken ranks, ties, empty classes or chunk borders would show; small integers make ties exact."""
    rng = np.random.default_rng(seed)
    features, weights = rng.integers(-1, 2, (images, 3)), rng.integers(-1, 2, (classes, 3))
    labels = rng.integers(0, classes, images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zc, "CHUNK", chunk)
        found = zc.classification_metrics(
            torch.tensor(features).float(), torch.tensor(weights).float(), torch.tensor(labels)
        )
    assert found == pytest.approx(brute_force(features, weights, labels))


def test_few_classes_have_no_acc5() -> None:
    """acc5 of four classes would be 100 % for any model and lift an average."""
    found = zc.classification_metrics(torch.eye(4), torch.eye(4), torch.arange(4))
    assert found == {"acc1": 1.0, "mean_per_class_recall": 1.0}
    assert set(zc.classification_chance(4)) == set(found)
    assert zc.classification_chance(5)["acc5"] == 1.0


def test_a_collapsed_encoder_scores_chance() -> None:
    """If ties counted as hits, a model that maps everything to one point would score 100 %."""
    labels = torch.arange(10).repeat(3)
    found = zc.classification_metrics(torch.ones(30, 2), torch.ones(10, 2), labels)
    assert found == pytest.approx(zc.classification_chance(10))


def test_recall_weighs_classes_equally() -> None:
    """On unbalanced data mean_per_class_recall would turn into accuracy."""
    features = torch.eye(2)[torch.tensor([0, 0, 0, 0])]
    found = zc.classification_metrics(features, torch.eye(2), torch.tensor([0, 0, 0, 1]))
    assert found == {"acc1": 0.75, "mean_per_class_recall": 0.5}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    """A diverged checkpoint would be reported as perfect: no score is greater than NaN."""
    features = torch.eye(3)
    features[1, 1] = bad
    with pytest.raises(InputError, match="diverged"):
        zc.classification_metrics(features, torch.eye(3), torch.arange(3))


def test_class_weights_average_normalised_templates() -> None:
    """Prompts of different classes would be mixed, or the ensemble would not have unit length."""
    prompts = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = np.stack([prompts[i : i + 2].numpy().mean(0) for i in (0, 2, 4)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(zc.class_weights(prompts, 3).numpy(), expected, rtol=1e-6)


def test_prompts_are_grouped_by_class() -> None:
    """class_weights would average over classes instead of over templates."""
    assert zc.class_prompts(("cat", "{c}at"), ("a {c}", "{c}!")) == ["a cat", "cat!", "a {c}at", "{c}at!"]
