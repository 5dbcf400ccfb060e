"""The truth of the samples: votes follow the model, and no shortcut leads to a zero-shot class."""

import math
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg

from pineco.data_pipeline.toy_world.samples import ZERO_SHOT_SETS, triplet, triplet_scenes, zero_shot
from pineco.data_pipeline.toy_world.settings import TINY
from pineco.data_pipeline.toy_world.similarity import perceptual_distance


def test_votes_follow_the_perceptual_model() -> None:
    """If it fails, there is nothing to learn from the triplets. The majority agrees on 97 % (bound 85 %)."""
    settings = replace(TINY, image_size=16)
    margins, shares = np.empty(400), np.empty(400)
    for index in range(400):
        reference, left, right = triplet_scenes(settings, index)
        margins[index] = perceptual_distance(reference, left) - perceptual_distance(reference, right)
        line = triplet(settings, "triplets", index)[1]["csv"].decode()
        shares[index] = float(line.split(",")[2])  # right_vote
    decided = shares != 0.5
    assert np.mean((margins > 0) == (shares > 0.5), where=decided) > 0.85
    fifths = np.array_split(shares[np.argsort(margins)], 5)
    assert np.all(np.diff([part.mean() for part in fifths]) > 0)
    assert abs(shares.mean() - 0.5) < 0.04  # no side is favoured


def statistics(jpeg: bytes) -> dict[str, float]:
    """Scalars of one picture that a lazy classifier could use."""
    image = simplejpeg.decode_jpeg(jpeg).astype(np.float32) / 255
    red, green, blue = (float(v) for v in image.mean((0, 1)))
    grey, top = image @ np.array([0.299, 0.587, 0.114], np.float32), image.max(2)
    chroma = top - image.min(2)
    return {
        "red": red,
        "green": green,
        "blue": blue,
        "hue": math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue),
        "luminance": float(grey.mean()),
        "std": float(grey.std()),
        "saturation": float((chroma / (top + 1e-3)).mean()),
        "vivid": float(np.partition(chroma, chroma.size * 95 // 100, axis=None)[chroma.size * 95 // 100]),
        "edges": float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()),
        "bytes": float(len(jpeg)),
    }


def bins_accuracy(values: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """The best class of each quantile bin, fitted on one half and scored on the other."""
    half, bins = len(values) // 2, max(8, classes // 4)
    edges = np.quantile(values[:half], np.linspace(0, 1, bins + 1)[1:-1])
    found = np.searchsorted(edges, values)
    table = np.zeros((bins, classes))
    np.add.at(table, (found[:half], labels[:half]), 1)
    return float((table.argmax(1)[found[half:]] == labels[half:]).mean())


@pytest.mark.parametrize("name", ZERO_SHOT_SETS)
def test_no_single_statistic_gives_the_class_away(name: str) -> None:
    """If it fails, a model scores on the zero-shot set without seeing shapes.

    Bound: twice the chance level. Measured on 4800 images (objects: 9600), the best statistic reaches 1.2 times
    chance on shapes (bytes) and, always vivid, 1.8 on objects, 1.7 on counts, 1.8 on textures, 1.6 on layouts.
    """
    classes, count = len(ZERO_SHOT_SETS[name].classnames), 1440 if name == "toy_objects" else 600
    made = [zero_shot(TINY, f"wds/{name}", index)[1] for index in range(count)]
    order = np.random.default_rng(0).permutation(count)
    labels = np.array([int(sample["cls"]) for sample in made])[order]
    rows = [statistics(made[index]["jpg"]) for index in order]
    scores = {key: bins_accuracy(np.array([row[key] for row in rows]), labels, classes) for key in rows[0]}
    assert max(scores.values()) < 2 / classes, scores
