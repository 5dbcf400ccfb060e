"""Does a model see what people see: their label distributions (CIFAR-10H), and what they take for what.

Peterson et al. 2019, Human uncertainty makes classification more robust (arXiv 1908.07086): some 50 people labelled
each of the 10,000 test images of CIFAR-10. Three figures, the same for a model and for one half of the people:

cross_entropy            mean over images of - sum_c p_c log q_c in nats: p the shares of people, q the model's
class_similarity_rsa     Spearman correlation over pairs of classes: how alike the model's two classes are (cosine) and
                         how often people take one for the other (mean of both directions)
entropy_correlation      Spearman correlation over images of the entropies of p and q: unsure about the same images

q is the softmax of cosines to the classes, either the means of the features of the class's other images (the image
itself left out), or text embeddings. Its temperature is the one of least cross-entropy to people on the other half of
the images, for cosines have no scale of their own and one model is not to win by a lucky sharpness.

Where counts may lie: pineco.evals.data.cifar10h_counts. Letters: N images, C classes, D features, W people's votes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.cifar10h_counts import People
from pineco.evals.representation.similarity import Ranks, finite, spearman
from pineco.evals.results.draws import DRAWS, interval, resamples

SPLITS = 20  # of people into halves
_STREAM = 0x10C1  # keeps the halves of people apart from whatever else a seed is used for
_SHARPEST = 1e5  # 1 / temperature: cosines that differ by 1e-4 are then told apart


class Similarity(NamedTuple):
    """A figure with its 95 % bootstrap interval over images."""

    value: float | None  # none where one side has no order, for example entropies that are all the same
    low: float | None
    high: float | None


def class_mean_scores(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(N, C) cosines of (N, D) features to the mean of each class, the image itself left out of its own.

    Raises InputError for a class with less than two images.
    """
    x = _unit(features)
    members = np.eye(classes)[labels]
    if (sizes := members.sum(axis=0)).min() < 2:
        raise InputError(f"class {int(sizes.argmin())} has {int(sizes.min())} images; its mean needs two at least")
    sums = members.T @ x
    scores = x @ _unit(sums).T
    own = np.arange(len(x)), labels
    scores[own] = (x * _unit(sums[labels] - x)).sum(axis=1)
    return scores


def predictions(scores: np.ndarray, people: People) -> tuple[np.ndarray, tuple[float, float]]:
    """((N, C) log q, the two temperatures): each half of the images at the temperature that fits the other one best.

    Halves alternate within each class, so both hold the same classes whatever the order of images.
    """
    order = np.argsort(people.labels, kind="stable")
    second = np.zeros(len(order), bool)
    first_of = np.searchsorted(people.labels[order], people.labels[order])
    second[order] = (np.arange(len(order)) - first_of) % 2 == 1
    shares, found, temperatures = people.shares, np.empty(scores.shape), []
    for half in (~second, second):
        sharpness = _best_sharpness(scores[~half], shares[~half])
        found[half] = _log_softmax(sharpness * scores[half])
        temperatures.append(1 / sharpness)
    return found, (temperatures[0], temperatures[1])


def agreement(
    log_q: np.ndarray,
    similarity: Callable[[np.ndarray], np.ndarray],
    people: People,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Similarity]:
    """The three figures of a model. log_q: (N, C), from `predictions`.

    similarity: (C, C) of the model's classes, of how often each image counts: `mean_similarity` or `text_similarity`.
    Drawn are images; what the predictions were made of stays, as do text embeddings.
    """
    shares, q = people.shares, np.exp(log_q)
    losses, entropies = -(shares * log_q).sum(axis=1), (Ranks(_entropy(shares)), Ranks(_entropy(q)))
    upper = np.triu_indices(shares.shape[1], 1)

    def figures(counts: np.ndarray, draw: int | None) -> tuple[float, ...]:
        alike = Ranks(_rounded(similarity(counts)[upper]))
        confused = Ranks(_rounded(_confusions(shares, people.labels, counts)[upper]))
        classes = np.ones(len(upper[0]), np.int64)
        loss = float(counts @ losses / counts.sum())
        return loss, spearman(alike, confused, classes), spearman(*entropies, counts)

    return _with_intervals(figures, len(shares), seed, draws)


def ceiling(people: People, *, seed: int = 0, draws: int = DRAWS) -> dict[str, Similarity]:
    """The same figures of one half of the people against the other: means over SPLITS random halves.

    The first half's shares are smoothed by one vote that is shared by all classes, or the first person who says what
    nobody else said would cost infinity. Half as many people are noisier than all: a model can pass this. Draw d of the
    images takes halves d modulo SPLITS. `floor`: the entropy of the shares, below which no cross-entropy can be.
    """
    halves = [half_of_people(people.counts, seed, split) for split in range(SPLITS)]
    upper = np.triu_indices(people.counts.shape[1], 1)
    prepared = []
    for one, other in halves:
        p = other / other.sum(axis=1, keepdims=True)
        smooth = (one + 1 / one.shape[1]) / (one.sum(axis=1, keepdims=True) + 1)
        q = one / one.sum(axis=1, keepdims=True)
        prepared.append((p, q, -(p * np.log(smooth)).sum(axis=1), Ranks(_entropy(p)), Ranks(_entropy(q))))

    def of_split(split: int, counts: np.ndarray) -> tuple[float, ...]:
        p, q, losses, of_p, of_q = prepared[split]
        a, b = (Ranks(_rounded(_confusions(side, people.labels, counts)[upper])) for side in (p, q))
        loss = float(counts @ losses / counts.sum())
        return loss, spearman(a, b, np.ones(len(upper[0]), np.int64)), spearman(of_p, of_q, counts)

    def figures(counts: np.ndarray, draw: int | None) -> tuple[float, ...]:
        if draw is not None:
            return of_split(draw % SPLITS, counts)
        return tuple(np.mean([of_split(split, counts) for split in range(SPLITS)], axis=0))

    return _with_intervals(figures, len(people.counts), seed, draws)


def floor(people: People) -> float:
    """Mean entropy of the shares in nats: the cross-entropy of whoever knows them."""
    return float(_entropy(people.shares).mean())


def mean_similarity(features: np.ndarray, people: People) -> Callable[[np.ndarray], np.ndarray]:
    """(C, C) cosines of class means of (N, D) features, as a function of how often each image counts."""
    x, members = _unit(features), np.eye(people.counts.shape[1])[people.labels]

    def similarity(counts: np.ndarray) -> np.ndarray:
        means = _unit((members * counts[:, None]).T @ x)
        return means @ means.T

    return similarity


def text_similarity(classes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(C, C) cosines of (C, D) text embeddings, whatever the images."""
    found = _unit(classes) @ _unit(classes).T
    return lambda counts: found


def half_of_people(counts: np.ndarray, seed: int, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a random half of each image's people (the smaller one, where their number is odd), and of the others.

    A pure function of its arguments: people are put in the order of raw random bits, which numpy promises for ever.
    Raises InputError for an image with less than two votes.
    """
    totals = counts.sum(axis=1)
    if totals.min() < 2:
        raise InputError(f"an image has {int(totals.min())} votes; halves of people need two at least")
    images, classes = counts.shape
    image = np.repeat(np.arange(images), totals)
    said = np.repeat(np.tile(np.arange(classes), images), counts.ravel())
    key, counter = np.array((seed, _STREAM), np.uint64), np.array((0, split, 0, 0), np.uint64)
    order = np.lexsort((np.random.Philox(key=key, counter=counter).random_raw(len(said)), image))
    place = np.arange(len(said)) - np.repeat(np.cumsum(totals) - totals, totals)
    chosen = order[place < np.repeat(totals // 2, totals)]
    half = np.bincount(image[chosen] * classes + said[chosen], minlength=counts.size).reshape(counts.shape)
    return half, counts - half


def _with_intervals(
    figures: Callable[[np.ndarray, int | None], tuple[float, ...]], images: int, seed: int, draws: int
) -> dict[str, Similarity]:
    """figures: of how often each image counts, and of the number of the draw, None for the set itself."""
    values = figures(np.ones(images, np.int64), None)
    drawn = [figures(counts, draw) for draw, counts in enumerate(resamples(seed, draws, images))]
    names = ("cross_entropy", "class_similarity_rsa", "entropy_correlation")
    found = zip(names, values, np.array(drawn).reshape(draws, len(values)).T, strict=True)
    return {name: Similarity(*map(finite, (value, *interval(column)))) for name, value, column in found}


def _best_sharpness(scores: np.ndarray, shares: np.ndarray) -> float:
    """1 / temperature of least cross-entropy, which is convex in it: where its slope changes its sign."""
    aim, low, high = (shares * scores).sum(axis=1).mean(), 1 / _SHARPEST, _SHARPEST
    for _ in range(60):
        middle = np.sqrt(low * high)
        q = np.exp(_log_softmax(middle * scores))
        low, high = (middle, high) if (q * scores).sum(axis=1).mean() < aim else (low, middle)
    return float(np.sqrt(low * high))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _entropy(p: np.ndarray) -> np.ndarray:
    """(N,) nats of (N, C) shares, rounded so that equal shares in another order are a tie."""
    return _rounded(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1))


def _rounded(x: np.ndarray) -> np.ndarray:
    return np.round(x, 12)


def _confusions(shares: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(C, C), symmetric: mean over the images of class c of the share of d, and the other way round, half each.

    A class that no draw holds has none, and adds 0.
    """
    weights = np.eye(shares.shape[1])[labels] * counts[:, None]
    table = weights.T @ shares / np.maximum(weights.sum(axis=0), 1)[:, None]
    return (table + table.T) / 2


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(float).tiny)
