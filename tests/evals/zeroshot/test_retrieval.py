"""Retrieval figures against brute force in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.evals.zeroshot import retrieval as zr
from pineco.evals.zeroshot.outcomes import chance, metrics


def brute_force(images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray) -> dict[str, float]:
    """By sorting all scores stably, one query at a time."""
    nearest_images = [np.argsort(-(images @ text), kind="stable") for text in texts]
    nearest_texts = [np.argsort(-(texts @ image), kind="stable") for image in images]
    figures: dict[str, float] = {}
    for k in (1, 5, 10):
        to_image = float(np.mean([own in near[:k] for own, near in zip(image_of_text, nearest_images, strict=True)]))
        to_text = float(np.mean([i in image_of_text[near[:k]] for i, near in enumerate(nearest_texts)]))
        figures |= {f"image_retrieval_recall@{k}": to_image, f"text_retrieval_recall@{k}": to_text}
        figures[f"mean_recall@{k}"] = (to_image + to_text) / 2
    return figures


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=14), st.integers(0, 2**31), st.integers(1, 60))
def test_metrics_equal_brute_force_with_ties(captions: list[int], seed: int, chunk: int) -> None:
    """Broken ranks, ties, chunk borders, unequal caption counts or caption order would show."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(len(captions)), captions))
    images, texts = rng.integers(-1, 2, (len(captions), 3)), rng.integers(-1, 2, (len(owner), 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zr, "CHUNK", chunk)
        features = torch.tensor(images).float(), torch.tensor(texts).float()
        found = metrics(zr.retrieval_outcomes(*features, torch.tensor(owner)))
    assert found == pytest.approx(brute_force(images, texts, owner))
    assert all(
        found[f"{way}_recall@{a}"] <= found[f"{way}_recall@{b}"]
        for way in ("image_retrieval", "text_retrieval", "mean")
        for a, b in ((1, 5), (5, 10))
    )


def test_metrics_equal_top_k_of_real_scores() -> None:
    """Our figures would not be those that clip-benchmark prints: positives counted among the topk of each row."""
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(120, 16, generator=generator), torch.randn(600, 16, generator=generator)
    owner = torch.arange(120).repeat_interleave(5)
    scores, true = texts @ images.T, torch.nn.functional.one_hot(owner, 120).bool()
    found = metrics(zr.retrieval_outcomes(images, texts, owner))
    for k in (1, 5, 10):
        to_image = true.gather(1, scores.topk(k, dim=1).indices).any(1).float().mean().item()
        to_text = true.T.gather(1, scores.T.topk(k, dim=1).indices).any(1).float().mean().item()
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(to_image, abs=1e-6)
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(to_text, abs=1e-6)


def test_outcomes_keep_the_file_order() -> None:
    """Two models would be compared query by query, but on different queries."""
    outcomes = zr.retrieval_outcomes(torch.eye(3), torch.eye(3)[[1, 0, 2, 1]], torch.tensor([1, 2, 2, 0]))
    assert outcomes.image_ranks.tolist() == [0, 2, 0, 1]
    assert outcomes.text_ranks.tolist() == [3, 0, 0]


def test_no_block_of_scores_grows_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts against all images would be held at once: 500 MB for the captions of 5,000 images."""
    sizes: list[int] = []
    original = zr.rank_of

    def listed(scores: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        sizes.append(scores.numel())
        return original(scores, *rest)

    monkeypatch.setattr(zr, "rank_of", listed)
    monkeypatch.setattr(zr, "CHUNK", 1000)
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(100, 4, generator=generator), torch.randn(500, 4, generator=generator)
    zr.retrieval_outcomes(images, texts, torch.arange(100).repeat_interleave(5))
    assert max(sizes) <= 1000
    assert sum(sizes) == 2 * 100 * 500


def test_a_collapsed_encoder_scores_chance() -> None:
    """If ties counted as hits, a model that maps everything to one point would have full recall."""
    outcomes = zr.retrieval_outcomes(torch.ones(50, 2), torch.ones(50, 2), torch.arange(50))
    assert metrics(outcomes) == pytest.approx(chance(outcomes))


@pytest.mark.parametrize("captions", [(1, 1, 1, 2), (2, 1, 3)])
def test_chance_is_the_mean_over_all_orders(captions: tuple[int, ...]) -> None:
    """The chance beside each figure would be wrong; here every order of the captions is counted."""
    owner = np.repeat(np.arange(len(captions)), captions)
    orders = np.array(list(itertools.permutations(owner)))
    found = zr.retrieval_chance(torch.tensor(captions))
    for k in (1, 5):
        expected = np.mean([(orders[:, :k] == i).any(1).mean() for i in range(len(captions))])
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(expected)
    assert found["image_retrieval_recall@1"] == 1 / len(captions)
    assert found["mean_recall@10"] == 1.0


def test_an_image_without_caption_is_refused() -> None:
    """Its rank would be that of some other image's caption."""
    for owner in ([0, 0], [0, 2]):
        with pytest.raises(ValueError, match="no caption"):
            zr.retrieval_outcomes(torch.eye(3)[:, :2], torch.eye(2), torch.tensor(owner))
    zero = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="no caption"):
        zr.RetrievalOutcomes(zero, zero, zero)


@pytest.mark.parametrize("ranks", [([2, 0], [0, 0]), ([0, 0], [0, -1]), ([0, 0], [0])])
def test_outcomes_that_do_not_fit_together_are_refused(ranks: tuple[list[int], list[int]]) -> None:
    """A rank that cannot be, from a file of another data set, would be counted as a miss."""
    with pytest.raises(ValueError, match=r"there are 2|have shapes|there are 1"):
        zr.RetrievalOutcomes(torch.tensor(ranks[0]), torch.tensor(ranks[1]), torch.arange(2))


def test_features_that_are_not_finite_are_refused() -> None:
    """A diverged checkpoint would be reported with full recall: no score is greater than NaN."""
    with pytest.raises(InputError, match="diverged"):
        zr.retrieval_outcomes(torch.eye(2), torch.full((2, 2), float("nan")), torch.arange(2))
