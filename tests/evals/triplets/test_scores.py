"""2AFC: figures against formulas written out anew, their limits, their intervals, and the pass over the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.shard_set import ShardOptions
from pineco.data_pipeline.triplets.source import open_triplets
from pineco.data_pipeline.triplets.table import COLUMNS, select_rows
from pineco.evals.models.perceptual import PerceptualModel
from pineco.evals.results.draws import image_counts
from pineco.evals.triplets.encode import How, Measured, measure
from pineco.evals.triplets.scores import (
    Choices,
    agreement,
    by_share,
    differences,
    figures,
    held_out_agreement,
    means,
    score,
)
from tests.support.shards import solid, write_shard


def make(n: int = 400, seed: int = 0, **changes: Any) -> Choices:
    """Random choices with soft votes, some of them undecided, and some equal distances."""
    random = np.random.default_rng(seed)
    votes = random.integers(1, 9, n)
    share = (random.integers(0, votes + 1) / votes).astype(np.float32)
    left, right = random.random((2, n)).astype(np.float32)
    right[::17] = left[::17]
    arrays = {
        "left": left,
        "right": right,
        "right_vote": share,
        "votes": votes,
        "reference": random.integers(0, n // 8, n),
        "group": random.integers(0, 2, n).astype(np.int8),
    }
    return Choices(**(arrays | changes))


def values(choices: Choices) -> dict[str, float]:
    return {name: figure.value for name, figure in figures(choices, seed=0, draws=2).items()}


def dreamsim(d0: np.ndarray, d1: np.ndarray, p: np.ndarray) -> float:
    """The published formula, element by element."""
    total = 0.0
    for left, right, share in zip(d0.tolist(), d1.tolist(), p.tolist(), strict=True):
        total += (left < right) * (1.0 - share) + (right < left) * share + (right == left) * 0.5
    return total / len(d0)


def test_the_score_is_dreamsims() -> None:
    """Our figures could not be set beside published ones."""
    choices = make()
    assert (choices.right_vote == 0.5).any()
    assert (choices.left == choices.right).any()
    expected = dreamsim(choices.left, choices.right, choices.right_vote)
    assert values(choices)["two_afc"] == pytest.approx(expected, abs=1e-6)


def test_the_test_total_is_the_mean_of_its_parts_by_size() -> None:
    """The total of NIGHTS' test split would weigh its two parts as if they were of one size."""
    choices = make(group=(np.arange(400) % 5 == 0).astype(np.int8))
    found, total, size = values(choices), 0.0, 0
    for number, name in enumerate(("no_imagenet", "imagenet")):
        rows = np.flatnonzero(choices.group == number)
        part = dreamsim(choices.left[rows], choices.right[rows], choices.right_vote[rows])
        assert found[f"two_afc_{name}"] == pytest.approx(part, abs=1e-6)
        total, size = total + part * len(rows), size + len(rows)
    assert found["two_afc"] == pytest.approx(total / size, abs=1e-6)
    assert figures(choices, seed=0, draws=2)["two_afc_imagenet"].triplets == 80


@pytest.mark.parametrize("group", [-1, 0, 1])
def test_a_set_of_one_kind_has_no_parts(group: int) -> None:
    """A part would be reported that is the whole under another name."""
    assert not [name for name in values(make(group=np.full(400, group, np.int8))) if name.startswith("two_afc_")]


@pytest.mark.parametrize(
    ("left", "right", "share", "points", "agrees"),
    [
        (0.1, 0.2, 0.25, 0.75, 1.0),
        (0.2, 0.1, 0.25, 0.25, 0.0),
        (0.2, 0.1, 1.0, 1.0, 1.0),
        (0.2, 0.2, 1.0, 0.5, 0.5),
        (0.1, 0.2, 0.5, 0.5, None),
        (0.2, 0.2, 0.5, 0.5, None),
    ],
)
def test_one_triplet(left: float, right: float, share: float, points: float, agrees: float | None) -> None:
    """Left and right would be exchanged, or an undecided triplet would count as right or wrong."""
    arrays = [np.array([value], np.float32) for value in (left, right, share)]
    choices = Choices(arrays[0], arrays[1], arrays[2], np.array([4]), np.array([0]), np.array([-1], np.int8))
    assert score(choices).tolist() == [points]
    assert agreement(choices).tolist() == [agrees or 0.0]
    assert ("accuracy" in means(choices)) == (agrees is not None)


def test_undecided_triplets_count_one_half_in_the_score_and_not_in_accuracy() -> None:
    """Rows that DreamSim's loader keeps would change the score by leaving, or accuracy by staying."""
    choices = make()
    found, decided = values(choices), choices.right_vote != 0.5
    without = Choices(*(array[decided] for array in _arrays(choices)))
    assert values(without)["accuracy"] == found["accuracy"]
    share = decided.mean()
    assert found["two_afc"] == pytest.approx(share * values(without)["two_afc"] + (1 - share) * 0.5, abs=1e-9)


def _arrays(choices: Choices) -> list[np.ndarray]:
    return [getattr(choices, field.name) for field in dataclasses.fields(choices)]


def test_no_chooser_beats_the_best_choice() -> None:
    """A ceiling would be below what a model can reach, or above it."""
    share = make(8).right_vote
    best = values(make(8))["best_choice"]
    reached = [np.mean(np.where(picks, share, 1 - share)) for picks in product((True, False), repeat=8)]
    assert best == pytest.approx(max(reached), abs=1e-6)


@pytest.mark.parametrize("voters", range(1, 8))
def test_a_held_out_voter_meets_the_majority_of_the_others(voters: int) -> None:
    """The agreement of people would count each voter for himself."""
    for right in range(voters + 1):
        votes, told = [1] * right + [0] * (voters - right), []
        for number, vote in enumerate(votes):
            others = votes[:number] + votes[number + 1 :]
            balance = sum(others) - len(others) / 2
            told.append(0.5 if balance == 0 else float((balance > 0) == bool(vote)))
        one = make(8, votes=np.full(8, voters), right_vote=np.full(8, right / voters, np.float32))
        found = held_out_agreement(one)
        if voters == 1:
            assert not found.weight.any()
            assert "held_out_voter" not in means(one)
        else:
            assert found.weight.tolist() == [1.0] * 8
            assert found.worth == pytest.approx(np.mean(told), abs=1e-9)


def test_shares_that_are_none_of_so_many_votes_are_left_out() -> None:
    """A table of averages would be taken for votes that nobody cast."""
    share = np.array([0.333, 0.4, 0.667, 0.5], np.float32)  # 0.4 and 0.5 of three votes are no votes
    found = held_out_agreement(make(8, votes=np.full(8, 3), right_vote=np.tile(share, 2)))
    assert found.weight.tolist() == [1.0, 0.0, 1.0, 0.0] * 2


def test_intervals_are_those_of_the_draws() -> None:
    """An interval would be of another figure than the one beside it."""
    choices = make()
    points = score(choices)
    drawn = [image_counts(3, draw, 400) @ points / 400 for draw in range(50)]
    found = figures(choices, seed=3, draws=50)["two_afc"]
    assert found.interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=1e-9)
    names, place = np.unique(choices.reference, return_inverse=True)
    counts = [image_counts(3, draw, len(names))[place] for draw in range(50)]
    drawn = [count @ points / count.sum() for count in counts]
    assert found.by_reference == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=1e-9)
    alone = figures(make(reference=np.arange(400)), seed=3, draws=50)["two_afc"]
    assert alone.by_reference == alone.interval


def test_triplets_of_one_reference_are_not_independent() -> None:
    """A figure over few reference images would look as sure as one over many."""
    right = np.repeat(np.arange(20) % 2, 20)  # a model that is right for half of the references
    arrays = {"left": 1 - right, "right": right, "right_vote": np.zeros(400), "reference": np.repeat(np.arange(20), 20)}
    changes: dict[str, Any] = {name: array.astype(np.float32) for name, array in arrays.items()}
    found = figures(make(**changes), seed=0)["two_afc"]
    widths = [high - low for low, high in (found.by_reference, found.interval)]
    assert widths[0] > 3 * widths[1]  # in theory the root of 20


def test_draws_without_a_decided_triplet_are_left_out() -> None:
    """One decided triplet among many would make an interval of nothing."""
    share = np.full(400, 0.5, np.float32)
    share[7] = 1.0
    found = figures(make(right_vote=share), seed=0)["accuracy"]
    assert (found.triplets, found.interval) == (1, (found.value, found.value))


def test_the_difference_of_two_models_is_paired() -> None:
    """A small gain of a model over another would drown in the choice of triplets, which both share."""
    a = make()
    better = np.where(a.right_vote > 0.5, a.left - 1, a.left + 1).astype(np.float32)
    few = np.arange(400) % 20 == 0
    b = dataclasses.replace(a, right=np.where(few, better, a.right))
    gaps = differences(b, a, seed=0)
    one, other = figures(a, seed=0), figures(b, seed=0)
    for name in ("two_afc", "accuracy", "two_afc_imagenet"):
        assert gaps[name].value == pytest.approx(other[name].value - one[name].value, abs=1e-12)
    gap = gaps["two_afc"]
    assert gap.low <= gap.value <= gap.high
    assert gap.high - gap.low < (one["two_afc"].interval[1] - one["two_afc"].interval[0]) / 2
    assert all(gap == (0, 0, 0) for gap in differences(a, a, seed=0, draws=20).values())
    assert differences(b, a, seed=0, by_reference=True)["two_afc"] != gap
    assert "best_choice" not in gaps


def test_models_of_other_triplets_are_not_compared() -> None:
    """A difference of two test sets would be called one of two models."""
    a = make()
    for changes in ({"right_vote": 1 - a.right_vote}, {"votes": a.votes + 1}):
        with pytest.raises(InputError, match="the votes differ"):
            differences(a, dataclasses.replace(a, **changes), seed=0, draws=2)


def test_agreement_by_share() -> None:
    """A share of 0.6, which float32 cannot say, would stand in the wrong bin; or easy triplets among hard ones."""
    share = np.array([0.6, 0.4, 0.65, 0.7, 0.2, 1.0, 0.0, 0.5, 0.95, 0.05], np.float32)
    left, right = np.zeros(10, np.float32), np.ones(10, np.float32)  # always left
    found = by_share(Choices(left, right, share, np.full(10, 5), np.arange(10), np.full(10, -1)), seed=0, draws=20)
    assert [(b.low, b.high, b.agreement.triplets, b.agreement.value) for b in found] == [
        (0.5, 0.6, 2, 0.5),
        (0.6, 0.7, 2, 0.0),
        (0.7, 0.8, 1, 1.0),
        (0.9, 1.0, 4, 0.5),
    ]
    assert [b.share for b in found] == pytest.approx([0.6, 0.675, 0.8, 0.975], abs=1e-6)


class Colours:
    """A model that sees the colour of an image: the distance of two is a function of how far their reds are apart."""

    name, identity, width, image_size = "colours", "none", 2, 8

    def __init__(self) -> None:
        self.batches: list[int] = []

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        assert pixels.dtype == np.uint8
        return torch.from_numpy(pixels[0, 0]).float()[:, None, None]

    def encode(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        angle = images[:, 0, 0, 0] / 200
        return torch.stack((angle.cos(), angle.sin()), 1)


Triplet = tuple[int, int, int]


def write(root: Path, triplets: list[Triplet], *, shards: bool = False, **columns: Sequence[object]) -> Path:
    """Triplets of images by their red, each with 7 votes for the left image, in both layouts."""
    reds = sorted({red for sides in triplets for red in sides})
    root.mkdir()
    if shards:
        write_shard(root / "0.tar", [(f"{red:03}.png", solid(red)) for red in reds])
        sides = [[str(reds.index(red)) for red in triplet] for triplet in triplets]
        names: tuple[str, ...] = COLUMNS
    else:
        for red in reds:
            (root / f"{red:03}.png").write_bytes(solid(red))
        sides = [[f"{red:03}.png" for red in triplet] for triplet in triplets]
        names = (*COLUMNS[:5], "ref_path", "left_path", "right_path")
    usual: dict[str, object] = {"split": "test", "left_vote": 1, "right_vote": 0, "votes": 7}
    lines = [[*names, *(name for name in columns if name not in usual)]]
    for i, three in enumerate(sides):
        mine = {name: given[i] for name, given in columns.items()}
        lines.append([*(str(value) for value in (usual | {k: v for k, v in mine.items() if k in usual}).values())])
        lines[-1] += [str(i), *three, *(str(v) for k, v in mine.items() if k not in usual)]
    (root / ("triplets.csv" if shards else "data.csv")).write_text("".join(",".join(line) + "\n" for line in lines))
    return root


def run(root: Path, model: Any = None, min_votes: int = 6, **options: Any) -> Measured:
    table, reader = open_triplets(str(root), ShardOptions(memory=0))
    rows = {"test": select_rows(table, "test", min_votes, ties=True)}
    return measure(cast(PerceptualModel, model or Colours()), table, reader, rows, How(**options))["test"]


TRIPLETS = [(10, 20, 90), (200, 90, 180), (40, 40, 41), (90, 10, 20), (120, 130, 110), (10, 10, 10)]


@pytest.mark.parametrize("shards", [False, True], ids=["folder", "shards"])
def test_distances_are_those_of_the_images(shards: bool, tmp_path: Path) -> None:
    """A distance would be of another pair, or left of right."""
    found = run(write(tmp_path / "set", TRIPLETS, shards=shards)).choices
    angles = np.array(TRIPLETS) / 200
    for side, distances in ((1, found.left), (2, found.right)):
        assert distances.dtype == np.float32
        assert distances == pytest.approx(1 - np.cos(angles[:, 0] - angles[:, side]), abs=1e-6)
    assert found.left[5] == found.right[5]  # one image on both sides
    assert found.reference.tolist() == [found.reference[0], *found.reference[1:5], found.reference[0]]
    assert len(set(found.reference.tolist())) == 5


def test_a_folder_and_its_shards_are_the_same_triplets(tmp_path: Path) -> None:
    """A model measured on one could not be compared with a model measured on the other."""
    one, two = (run(write(tmp_path / str(n), TRIPLETS, shards=bool(n))) for n in (0, 1))
    assert one.digest == two.digest
    assert np.array_equal(one.choices.left, two.choices.left)
    assert run(write(tmp_path / "other", [*TRIPLETS[:5], (10, 10, 11)])).digest != one.digest


def test_neither_order_nor_batches_matter(tmp_path: Path) -> None:
    """A figure would depend on how a table is sorted, on the machine's memory or on its threads."""
    random = np.random.default_rng(0)
    triplets = [tuple(row) for row in random.integers(0, 150, (300, 3)).tolist()]
    usual = run(write(tmp_path / "usual", triplets)).choices
    for options in ({"batch_size": 1}, {"batch_size": 7, "threads": 1}, {"memory": 0}):
        other = run(tmp_path / "usual", **options).choices
        assert np.allclose(other.left, usual.left, atol=1e-6)
        assert values(other) == pytest.approx(values(usual), abs=1e-6)
    order = random.permutation(300)
    mixed = run(write(tmp_path / "mixed", [triplets[i] for i in order])).choices
    assert np.array_equal(mixed.left, usual.left[order])
    assert values(mixed)["two_afc"] == pytest.approx(values(usual)["two_afc"], abs=1e-12)


def test_every_distinct_image_is_encoded_once(tmp_path: Path) -> None:
    """100 images in 2,738 triplets would be encoded 8,214 times; copies of a file would be images of their own."""
    write(tmp_path / "set", TRIPLETS * 50)
    table = (tmp_path / "set" / "data.csv").read_text().splitlines()
    (tmp_path / "set" / "copy.png").write_bytes((tmp_path / "set" / "090.png").read_bytes())
    table[1] = table[1].replace("090.png", "copy.png")
    (tmp_path / "set" / "data.csv").write_text("\n".join(table) + "\n")
    model, said = Colours(), []
    found = run(tmp_path / "set", model, batch_size=4, progress=lambda *told: said.append(told))
    assert model.batches == [4, 4, 2]  # ten distinct reds
    assert found.digest == run(write(tmp_path / "plain", TRIPLETS * 50)).digest
    assert said[-1] == ("images", 11, 11)
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)


def test_splits_and_rows_with_few_votes_are_kept_apart(tmp_path: Path) -> None:
    """A model would be measured on what it was trained on, or on rows that NIGHTS' authors leave out."""
    columns: dict[str, Any] = {"split": ["train", "test", "test", "val", "test", "test"], "votes": [7, 7, 5, 7, 7, 6]}
    halves: dict[str, Any] = {"is_imagenet": ["True", "True", "True", "True", "False", "True"]}
    found = run(write(tmp_path / "set", TRIPLETS, **columns, **halves)).choices
    assert found.votes.tolist() == [7, 7, 6]
    assert found.group.tolist() == [1, 0, 1]
    assert len(run(tmp_path / "set", min_votes=0).choices) == 4
    with pytest.raises(InputError, match="has no row with 9 votes or more"):
        run(tmp_path / "set", min_votes=9)


def test_undecided_rows_are_measured(tmp_path: Path) -> None:
    """The score would be over other rows than DreamSim's."""
    columns: dict[str, Any] = {"left_vote": [0.5, *[1] * 5], "right_vote": [0.5, *[0] * 5]}
    assert len(run(write(tmp_path / "set", TRIPLETS, **columns)).choices) == 6


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("shards", [False, True], ids=["folder", "shards"])
def test_damaged_and_missing_images_are_counted_and_named(shards: bool, batch_size: int, tmp_path: Path) -> None:
    """A figure would be given over other triplets than the set's; or only the first bad image of many be known."""
    root = write(tmp_path / "set", TRIPLETS, shards=shards)
    table, reader = open_triplets(str(root), ShardOptions(memory=0))
    if shards:
        data = bytearray((root / "0.tar").read_bytes())
        for name in (b"041.png", b"130.png"):
            data[data.index(name) + 512 + 40] ^= 255
        (root / "0.tar").write_bytes(bytes(data))
        reasons = ["041: .png: its bytes are not those that were indexed", "130: .png: its bytes"]
    else:
        (root / "041.png").write_bytes(b"GIF89a")
        (root / "130.png").unlink()
        reasons = ["041.png: .png: not a JPEG, PNG or WebP image", "130.png: 130.png: No such file"]
    model = Colours()
    rows = {"test": select_rows(table, "test", 6, ties=True)}
    with pytest.raises(InputError) as caught:
        measure(model, table, reader, rows, How(batch_size=batch_size))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "2 of 10 samples cannot be used" in message
    assert all(reason in message for reason in reasons)
    assert "\n" not in message
    assert sum(model.batches) < 10


def test_distances_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A model whose weights overflow would score at chance, as if it had looked."""

    class Broken(Colours):
        def encode(self, images: Tensor) -> Tensor:
            return super().encode(images) * torch.tensor([float("nan"), 1.0])

    with pytest.raises(InputError, match="6 of 6 distances are no numbers"):
        run(write(tmp_path / "set", TRIPLETS), Broken())


@pytest.mark.parametrize("vote", ["1.01", "-0.5", "nan"])
def test_votes_outside_of_zero_and_one_are_refused(vote: str, tmp_path: Path) -> None:
    """A score above 100 % could be reached."""
    root = write(tmp_path / "set", TRIPLETS, right_vote=[0, 0, vote, 0, 0, 0])
    with pytest.raises(InputError, match=r"data\.csv: line 4: right_vote is .*, outside \[0, 1\]"):
        run(root)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    """A mistyped split would be a figure of nothing."""
    table, _ = open_triplets(str(write(tmp_path / "set", TRIPLETS)))
    with pytest.raises(InputError, match="no split 'tset'; it has test"):
        select_rows(table, "tset", 6, ties=True)
