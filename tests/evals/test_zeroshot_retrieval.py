"""Retrieval figures against brute force in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import zeroshot_retrieval as zr


def brute_force(images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray) -> dict[str, float]:
    """By sorting all scores stably, one query at a time."""
    nearest_images = [np.argsort(-(images @ text), kind="stable") for text in texts]
    nearest_texts = [np.argsort(-(texts @ image), kind="stable") for image in images]
    figures = {}
    for k in (1, 5, 10):
        to_image = np.mean([own in near[:k] for own, near in zip(image_of_text, nearest_images, strict=True)])
        to_text = np.mean([i in image_of_text[near[:k]] for i, near in enumerate(nearest_texts)])
        figures |= {f"image_retrieval_recall@{k}": to_image, f"text_retrieval_recall@{k}": to_text}
        figures[f"mean_recall@{k}"] = (to_image + to_text) / 2
    return figures


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=14), st.integers(0, 2**31), st.integers(1, 8))
def test_metrics_equal_brute_force_with_ties(captions: list[int], seed: int, chunk: int) -> None:
    """Broken ranks, ties, chunk borders, unequal caption counts or caption order would show."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(len(captions)), captions))
    images, texts = rng.integers(-1, 2, (len(captions), 3)), rng.integers(-1, 2, (len(owner), 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zr, "CHUNK", chunk)
        found = zr.retrieval_metrics(torch.tensor(images).float(), torch.tensor(texts).float(), torch.tensor(owner))
    assert found == pytest.approx(brute_force(images, texts, owner))
    assert all(
        found[f"{way}_recall@{a}"] <= found[f"{way}_recall@{b}"]
        for way in ("image_retrieval", "text_retrieval", "mean")
        for a, b in ((1, 5), (5, 10))
    )


def test_a_collapsed_encoder_scores_chance() -> None:
    """If ties counted as hits, a model that maps everything to one point would have full recall."""
    owner = torch.arange(50)
    found = zr.retrieval_metrics(torch.ones(50, 2), torch.ones(50, 2), owner)
    assert found == pytest.approx(zr.retrieval_chance(torch.ones(50, dtype=torch.int64)))


@pytest.mark.parametrize("captions", [(1, 1, 1, 2), (2, 1, 3)])
def test_chance_is_the_mean_over_all_orders(captions: tuple[int, ...]) -> None:
    """The chance beside each figure would be wrong; here every order of the captions is counted."""
    owner = np.repeat(np.arange(len(captions)), captions)
    orders = np.array(list(itertools.permutations(owner)))
    chance = zr.retrieval_chance(torch.tensor(captions))
    expected = np.mean([(orders[:, :1] == i).any(1).mean() for i in range(len(captions))])
    assert chance["text_retrieval_recall@1"] == pytest.approx(expected)
    expected = np.mean([(orders[:, :5] == i).any(1).mean() for i in range(len(captions))])
    assert chance["text_retrieval_recall@5"] == pytest.approx(expected)
    assert chance["image_retrieval_recall@1"] == 1 / len(captions)
    assert chance["mean_recall@10"] == 1.0


def test_an_image_without_caption_is_refused() -> None:
    """Its rank would be that of some other image's caption."""
    with pytest.raises(ValueError, match="no caption"):
        zr.text_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
