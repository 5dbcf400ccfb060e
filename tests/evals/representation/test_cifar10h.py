"""Agreement with people's labels: the definitions restated, the ceiling, and every place where counts may lie."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.cifar10h_counts import IN_SHARDS, INDEX_FILE, People, read_counts
from pineco.evals.data.datasets import open_folder
from pineco.evals.representation.cifar10h import (
    Similarity,
    agreement,
    ceiling,
    class_mean_scores,
    floor,
    half_of_people,
    mean_similarity,
    predictions,
    text_similarity,
)
from pineco.evals.results.draws import image_counts
from tests.support.coloured_sets import COLOURS, WriteFolder
from tests.support.rank_statistics import mean_ranks

C = 4


def people(images: int = 60, votes: int = 30, seed: int = 0) -> People:
    """Images of C classes in turn, each with its own doubt, of which more goes to the next class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % C
    doubt = rng.uniform(0, 0.45, images)
    shares = np.full((images, C), 0.0)
    for step, part in ((0, 1 - doubt), (1, 0.7 * doubt), (2, 0.2 * doubt), (3, 0.1 * doubt)):
        shares[np.arange(images), (labels + step) % C] = part
    return People(np.stack([rng.multinomial(votes, p) for p in shares]), labels)


def features(of: People, noise: float, seed: int = 1) -> np.ndarray:
    """People's shares, in other axes, with noise."""
    rng = np.random.default_rng(seed)
    return of.shares @ np.linalg.qr(rng.normal(size=(8, 8)))[0][:C] + noise * rng.normal(size=(len(of.labels), 8))


def figures(of: People, x: np.ndarray, draws: int = 0) -> dict[str, Similarity]:
    log_q, _ = predictions(class_mean_scores(x, of.labels, C), of)
    return agreement(log_q, mean_similarity(x, of), of, draws=draws)


def value(of: Similarity) -> float:
    assert of.value is not None
    return of.value


def holds_its_value(of: Similarity) -> bool:
    """Check that the value lies in its interval, limits included."""
    assert of.low is not None
    assert of.high is not None
    return of.low <= value(of) <= of.high


def test_scores_leave_the_image_itself_out() -> None:
    """A class mean would hold the image that it is compared to, which in small classes gives the label away."""
    of, x = people(12), np.random.default_rng(0).normal(size=(12, 3))
    scores = class_mean_scores(5 * x, of.labels, C)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for image in range(12):
        for c in range(C):
            others = [unit[j] for j in range(12) if of.labels[j] == c and j != image]
            mean = np.mean(others, axis=0)
            assert scores[image, c] == pytest.approx(unit[image] @ mean / np.linalg.norm(mean), abs=1e-12)
    with pytest.raises(InputError, match="class 3 has 1 images"):
        class_mean_scores(x[:7], np.array([0, 0, 1, 1, 2, 2, 3]), C)


def test_a_temperature_comes_from_the_other_half() -> None:
    """A model would be fitted to the images that it is measured on, or by a sharpness that is not its best."""
    of = people(80)
    scores = class_mean_scores(features(of, 0.05), of.labels, C)
    log_q, temperatures = predictions(scores, of)
    assert np.exp(log_q).sum(axis=1) == pytest.approx(np.ones(80))
    second = np.arange(80) // C % 2 == 1  # of each class every other image
    for half, temperature in ((~second, temperatures[0]), (second, temperatures[1])):

        def loss(t: float, rows: np.ndarray) -> float:
            q = np.exp(scores[rows] / t)
            return float(-(of.shares[rows] * np.log(q / q.sum(axis=1, keepdims=True))).sum(axis=1).mean())

        assert loss(temperature, ~half) <= min(loss(temperature * f, ~half) for f in (0.98, 1.02))
        assert log_q[half] == pytest.approx(np.log(softmax(scores[half] / temperature)), abs=1e-9)
    again = predictions(3 * scores - 1, of)[0]
    assert again == pytest.approx(log_q, abs=1e-9)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def restated(log_q: np.ndarray, similarity: np.ndarray, of: People, rows: np.ndarray) -> tuple[float, float, float]:
    """The three figures of the images `rows`, in loops."""
    p = [of.counts[i] / of.counts[i].sum() for i in rows]
    loss = np.mean([-sum(p[k][c] * log_q[i][c] for c in range(C)) for k, i in enumerate(rows)])
    table = np.zeros((C, C))
    for c in range(C):
        members = [p[k] for k, i in enumerate(rows) if of.labels[i] == c]
        table[c] = np.mean(members, axis=0)
    pairs = [(a, b) for a in range(C) for b in range(a + 1, C)]
    confused = np.array([(table[a, b] + table[b, a]) / 2 for a, b in pairs])
    alike = np.array([similarity[a, b] for a, b in pairs])
    sides = (p, np.exp(log_q[rows]))
    entropies = [np.array([-sum(v * math.log(v) for v in q if v > 0) for q in side]) for side in sides]
    ranks = [mean_ranks(np.round(e, 12)) for e in entropies]
    return (
        loss,
        np.corrcoef(mean_ranks(alike), mean_ranks(np.round(confused, 12)))[0, 1],
        np.corrcoef(ranks[0], ranks[1])[0, 1],
    )


def test_the_figures_are_their_definitions() -> None:
    """A figure would not be what its name says, for the set or for a draw of its images."""
    of = people()
    x = features(of, 0.1)
    log_q, _ = predictions(class_mean_scores(x, of.labels, C), of)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found, drawn = agreement(log_q, mean_similarity(x, of), of), []
    for rows in [np.arange(60), *(np.repeat(np.arange(60), image_counts(0, draw, 60)) for draw in range(3))]:
        means = np.stack([unit[[i for i in rows if of.labels[i] == c]].sum(axis=0) for c in range(C)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        drawn.append(restated(log_q, means @ means.T, of, rows))
    few = agreement(log_q, mean_similarity(x, of), of, draws=3)
    for place, name in enumerate(("cross_entropy", "class_similarity_rsa", "entropy_correlation")):
        assert found[name].value == pytest.approx(drawn[0][place], abs=1e-10)
        assert holds_its_value(found[name])
        assert few[name][1:] == pytest.approx(np.quantile([d[place] for d in drawn[1:]], (0.025, 0.975)), abs=1e-10)


def test_who_sees_as_people_do_agrees_more() -> None:
    """The figures would not tell a model that follows people from one that is right without doubt, or from noise."""
    of = people(400)
    alike, noisy = figures(of, features(of, 0.02)), figures(of, features(of, 2))
    certain = figures(of, np.eye(C)[of.labels] + 1e-3 * np.random.default_rng(0).normal(size=(400, C)))
    assert floor(of) < value(alike["cross_entropy"]) < value(certain["cross_entropy"]) < value(noisy["cross_entropy"])
    assert value(noisy["cross_entropy"]) < math.log(C) + 0.05
    assert value(alike["entropy_correlation"]) > 0.7 > 0.3 > abs(value(noisy["entropy_correlation"]))
    assert abs(value(certain["entropy_correlation"])) < 0.3
    assert value(alike["class_similarity_rsa"]) > 0.7


def test_a_model_without_order_has_no_correlation() -> None:
    """A division by zero would be written as a figure, and JSON cannot hold it."""
    of = people(20)
    found = agreement(np.log(np.full((20, C), 1 / C)), text_similarity(np.eye(C)), of, draws=5)
    assert found["entropy_correlation"] == found["class_similarity_rsa"] == (None, None, None)
    assert found["cross_entropy"].value == pytest.approx(math.log(C))


def test_halves_of_people_are_halves() -> None:
    """The ceiling would compare people to themselves, or always the same half."""
    of = people(votes=31)
    one, other = half_of_people(of.counts, 0, 0)
    assert (one + other == of.counts).all()
    assert (one >= 0).all()
    assert (other >= 0).all()
    assert (one.sum(axis=1) == 15).all()
    again, second = half_of_people(of.counts, 0, 0)[0], half_of_people(of.counts, 0, 1)[0]
    assert (one == again).all()
    assert (one != second).any()
    mean = np.mean([half_of_people(of.counts, 0, split)[0] for split in range(400)], axis=0)
    assert np.abs(mean - of.counts * 15 / 31).max() < 0.5
    with pytest.raises(InputError, match="an image has 1 votes"):
        half_of_people(np.eye(C, dtype=int), 0, 0)


def test_more_people_agree_better_with_each_other() -> None:
    """The ceiling would not be of the votes that there are."""
    few, many = ceiling(people(200, 20), draws=20), ceiling(people(200, 1000), draws=20)
    assert value(many["cross_entropy"]) < value(few["cross_entropy"])
    assert floor(people(200, 1000)) < value(many["cross_entropy"]) < floor(people(200, 1000)) + 0.05
    assert value(few["entropy_correlation"]) < 0.9 < value(many["entropy_correlation"])
    assert value(many["class_similarity_rsa"]) > 0.9
    for figure in (*few.values(), *many.values()):
        assert holds_its_value(figure)
    assert ceiling(people(200, 20), draws=20) == few


COUNTS = [[9, 1, 0], [0, 10, 0], [2, 0, 8], [10, 0, 0], [1, 9, 1], [0, 0, 12]]


@pytest.fixture
def colours(write_folder: WriteFolder, picture: Callable[..., bytes]) -> Callable[..., Path]:
    """Six images of three colours; `about` makes the .json of each."""

    def write(about: Callable[[int], object] | None = None) -> Path:
        samples = []
        for number in range(6):
            label = number % 3
            sample = {"jpg": picture(list(COLOURS)[label]), "cls": str(label).encode()}
            said = None if about is None else about(number)
            samples.append(sample if said is None else sample | {"json": json.dumps(said).encode()})
        return write_folder("colours", samples)

    return write


def table(path: Path, rows: object) -> str:
    buffer = io.BytesIO()
    np.save(buffer, np.array(rows))
    path.write_bytes(buffer.getvalue())
    return str(path)


def test_counts_are_found_wherever_they_lie(colours: Callable[..., Path], tmp_path: Path) -> None:
    """One of the layouts that the help names would give the counts of other images."""
    order = [3, 1, 5, 0, 4, 2]  # the row of each sample
    folder = open_folder(colours(lambda n: {"cifar10h_counts": COUNTS[n], "cifar10_test_index": order[n]}))
    by_row = [COUNTS[order.index(row)] for row in range(6)]
    lines = [f"s{n:07d}\t" + "\t".join(map(str, COUNTS[n])) for n in (4, 2, 0, 1, 3, 5)]
    (tmp_path / "counts.tsv").write_text("\n".join(["key\tred\tgreen\tblue", *lines]))
    sources = [
        IN_SHARDS,
        str(tmp_path / "counts.tsv"),
        table(tmp_path / "counts.npy", by_row),
        table(tmp_path / "floats.npy", np.array(by_row, np.float64)),
    ]
    for source in sources:
        found = read_counts(source, folder)
        assert found.counts.tolist() == COUNTS
        assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    (tmp_path / INDEX_FILE).write_text("\n".join(f"s{n:07d}\t{5 - n}" for n in range(6)))
    found = read_counts(table(tmp_path / "counts.npy", COUNTS[::-1]), folder)
    assert found.counts.tolist() == COUNTS, "the .tsv goes before the .json"


def test_without_an_index_the_order_is_that_of_the_set(colours: Callable[..., Path], tmp_path: Path) -> None:
    """The whole test set, whose order is the published one, would need a list of its own."""
    folder = open_folder(colours())
    assert read_counts(table(tmp_path / "counts.npy", COUNTS), folder).counts.tolist() == COUNTS
    with pytest.raises(InputError, match=f"7 rows for 6 images; say whose each is in .*{INDEX_FILE}"):
        read_counts(table(tmp_path / "counts.npy", [*COUNTS, [1, 0, 0]]), folder)


def test_counts_of_other_images_are_refused(colours: Callable[..., Path], tmp_path: Path) -> None:
    """A table in another order, or with columns of other classes, would give figures near chance and no word."""
    folder = open_folder(colours())
    for wrong in (COUNTS[1:] + COUNTS[:1], [row[::-1] for row in COUNTS]):
        with pytest.raises(InputError, match=r"the label of \d+ % of the images only"):
            read_counts(table(tmp_path / "counts.npy", wrong), folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array(COUNTS) / 12, "other than whole numbers; take counts, not shares"),
        (-np.array(COUNTS), "other than whole numbers"),
        (np.array(COUNTS)[:, :2], r"shape \(6, 2\)"),
        (np.array(COUNTS).astype(str), "must be counts of 3 classes"),
        (np.array(COUNTS, object), "no array, damaged or pickled"),
        (np.array(COUNTS) * np.array([[1], [0], [1], [1], [1], [1]]), "1 of 6 images have no votes"),
    ],
    ids=["shares", "negative", "columns", "text", "pickled", "silent"],
)
def test_a_damaged_table_is_named(rows: np.ndarray, message: str, colours: Callable[..., Path], tmp_path: Path) -> None:
    """Somebody's code would be run, or half of a file be taken for people."""
    folder, source = open_folder(colours()), table(tmp_path / "counts.npy", rows)
    with pytest.raises(InputError, match=message):
        read_counts(source, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s0000000\t1\t2", "line 1: must be a key and 3 whole numbers"),
        ("key\ta\tb\tc\ns0000000\t1\t2\t-3", "line 2: must be a key and 3 whole numbers"),
        ("s0000000\t1\t2\t3\ns0000000\t1\t2\t3", "line 2: s0000000 stands twice"),
        ("s0000000\t9\t0\t0", "lacks 5 of 6 samples, the first is s0000001"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_tsv_is_named(
    text: str | bytes | None, message: str, colours: Callable[..., Path], tmp_path: Path
) -> None:
    """A row would be skipped, and the figure be of fewer images than it says."""
    path, folder = tmp_path / "counts.tsv", open_folder(colours())
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_counts(str(path), folder)


@pytest.mark.parametrize(
    ("about", "source", "message"),
    [
        (None, IN_SHARDS, "s0000000.json, cifar10h_counts: None is no list of 3"),
        ({"cifar10h_counts": [1, 2]}, IN_SHARDS, r"\[1, 2\] is no list of 3"),
        ({"cifar10h_counts": [1, 2, True]}, IN_SHARDS, "is no list of 3"),
        ([1], IN_SHARDS, "s0000000.json: no JSON object"),
        ({"cifar10_test_index": 6}, "counts.npy", "its row in counts.npy is 6, not from 0 to 5"),
        ({"cifar10_test_index": "1"}, "counts.npy", "is '1', not from 0 to 5"),
        (None, "counts.csv", "must be a .tsv, the published .npy, or the word shards"),
    ],
)
def test_damaged_samples_are_named(
    about: object, source: str, message: str, colours: Callable[..., Path], tmp_path: Path
) -> None:
    """A traceback would end an evaluation, or an image get the counts of another."""
    folder = open_folder(colours(None if about is None else lambda n: about))
    table(tmp_path / "counts.npy", COUNTS)
    with pytest.raises(InputError, match=message):
        read_counts(source if source == IN_SHARDS else str(tmp_path / source), folder)


def test_a_set_without_classes_is_refused(write_folder: WriteFolder, picture: Callable[..., bytes]) -> None:
    """Captions would be taken for labels."""
    folder = open_folder(
        write_folder("captions", [{"jpg": picture(), "txt": b"red"}], classnames=None, kind="retrieval")
    )
    with pytest.raises(InputError, match="a retrieval set has no classes"):
        read_counts(IN_SHARDS, folder)


def test_the_real_counts_are_those_of_the_real_images(real_data: Path) -> None:
    """The counts of the small real set would be read in another order than its labels."""
    found = read_counts(IN_SHARDS, open_folder(real_data / "wds" / "cifar10"))
    assert found.counts.shape == (2000, 10)
    assert found.counts.sum(axis=1).min() >= 48
    assert (found.counts.argmax(axis=1) == found.labels).mean() == pytest.approx(0.993, abs=5e-4)
    assert floor(found) == pytest.approx(0.1507, abs=5e-4)
