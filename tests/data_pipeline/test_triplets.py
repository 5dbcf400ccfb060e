"""Triplets in NIGHTS' layout: rows that cannot be trusted are named, the control keeps all but the judgement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.errors import InputError
from data_pipeline.triplets import COLUMNS, TripletSource
from tests.data_pipeline.conftest import solid

Row = dict[str, object]


def row(i: int, **changes: object) -> Row:
    """Row i: images of colour 3 i, 3 i + 1, 3 i + 2; people say right in every third row."""
    right = float(i % 3 == 0)
    paths = {f"{side}_path": f"{side}/{i}.png" for side in ("ref", "left", "right")}
    return {"id": i, "left_vote": 1 - right, "right_vote": right, "votes": 7, "split": "train"} | paths | changes


def write_triplets(root: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Path:
    for i, side in ((i, side) for i in range(len(rows)) for side in enumerate(("ref", "left", "right"))):
        (root / side[1]).mkdir(parents=True, exist_ok=True)
        (root / side[1] / f"{i}.png").write_bytes(solid(3 * i + side[0], side=10))
    lines = [columns, *([r[c] for c in columns] for r in rows)]
    (root / "data.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return root


def make_source(root: Path, **options: Any) -> TripletSource:
    options = {"image_size": 8, "split": "train", "min_votes": 6, "seed": 0} | options
    return TripletSource(str(root), **options)


def test_images_meet_their_own_vote(tmp_path: Path) -> None:
    """The model would learn from judgements of other images, or with left and right exchanged."""
    source = make_source(write_triplets(tmp_path, [row(i) for i in range(12)]))
    numbers = np.array([5, 0, 11, 3])
    batch = source.load(numbers, epoch=0)
    assert (len(source), source.dropped, len(batch)) == (12, 0, 4)
    for part, images in enumerate((batch.reference, batch.left, batch.right)):
        assert (images.shape, images.dtype) == ((4, 3, 8, 8), torch.uint8)
        assert images[:, 0].flatten(1).unique(dim=1).flatten().tolist() == (3 * numbers + part).tolist()
    assert batch.right_vote.dtype == torch.float32
    assert batch.right_vote.tolist() == [0, 1, 0, 1]
    assert batch.samples.tolist() == numbers.tolist()


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """A table with its columns in another order would be read with wrong votes."""
    rows = [row(i, right_vote=0.125 * i) for i in range(4)]
    source = make_source(write_triplets(tmp_path, rows, (*reversed(COLUMNS), "id")))
    assert source.load(np.arange(4), 0).right_vote.tolist() == [0, 0.125, 0.25, 0.375]


def test_ties_and_rows_with_few_votes_are_dropped_and_counted(tmp_path: Path) -> None:
    """Rows without a judgement would be trained on, or vanish without a word."""
    rows = [
        row(0),
        row(1, votes=5),
        row(2, right_vote=0.5, left_vote=0.5),
        row(3, votes=6),
        row(4, split="val", votes=1),
    ]
    source = make_source(write_triplets(tmp_path, rows))
    assert (len(source), source.dropped) == (2, 2)
    assert source.load(np.arange(2), 0).reference[:, 0, 0, 0].tolist() == [0, 9]
    assert len(make_source(tmp_path, min_votes=0)) == 3


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    """The model would be trained on what it is tested on."""
    source = make_source(
        write_triplets(tmp_path, [row(i, split=("train", "test")[i % 2]) for i in range(6)]), split="test"
    )
    assert source.load(np.arange(len(source)), 0).reference[:, 0, 0, 0].tolist() == [3, 9, 15]


def test_every_triplet_is_its_own_extent(tmp_path: Path) -> None:
    """Triplets would be shuffled in runs though each is a file of its own."""
    extents = make_source(write_triplets(tmp_path, [row(i) for i in range(5)])).extents(lanes=2)
    assert (extents.first.tolist(), extents.size.tolist()) == ([0, 1, 2, 3, 4], [1] * 5)


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_columns_are_named(tmp_path: Path, column: str) -> None:
    """A table of another layout would fail with a KeyError deep in the code."""
    write_triplets(tmp_path, [row(0)], tuple(c for c in COLUMNS if c != column))
    with pytest.raises(InputError, match=rf"data\.csv: lacks the columns {column}$"):
        make_source(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"right_vote": -0.01}, r"right_vote is -0\.01, outside \[0, 1\]"),
        ({"right_vote": 1.5}, r"right_vote is 1\.5, outside \[0, 1\]"),
        ({"right_vote": "nan"}, r"right_vote is nan, outside \[0, 1\]"),
        ({"right_vote": ""}, "no number"),
        ({"votes": "many"}, "no number"),
        ({"votes": "inf"}, "no number"),
        ({"votes": "nan"}, "no number"),
        ({"ref_path": "../secret.png"}, "must be relative and stay inside the folder"),
        ({"left_path": "left/../../secret.png"}, "must be relative and stay inside the folder"),
        ({"right_path": "/etc/passwd"}, "must be relative and stay inside the folder"),
        ({"left_path": ""}, "must be relative and stay inside the folder"),
    ],
)
def test_bad_rows_are_named_with_their_line(tmp_path: Path, changes: Row, message: str) -> None:
    """A vote outside [0, 1] would be a loss without bounds; a path could read any file of the machine.

    Rows of other splits are checked, too.
    """
    write_triplets(tmp_path, [row(0), row(1, split="val", **changes)])
    with pytest.raises(InputError, match=rf"data\.csv: line 3: .*{message}"):
        make_source(tmp_path)


def test_a_cut_row_is_named(tmp_path: Path) -> None:
    """The end of a table that was cut while it was copied would go for a row of no split."""
    table = write_triplets(tmp_path, [row(0), row(1)]) / "data.csv"
    table.write_text(table.read_text().removesuffix(",train\n"))
    with pytest.raises(InputError, match=r"data\.csv: line 3: fewer fields than columns"):
        make_source(tmp_path)


def test_a_missing_image_is_named_at_the_start(tmp_path: Path) -> None:
    """A run would end in the middle of an epoch."""
    write_triplets(tmp_path, [row(0), row(1)])
    (tmp_path / "left" / "1.png").unlink()
    with pytest.raises(InputError, match=r"data\.csv: names left/1\.png, which is not there"):
        make_source(tmp_path)


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    """One bad image among tens of thousands could not be found."""
    write_triplets(tmp_path, [row(0), row(1)])
    (tmp_path / "right" / "1.png").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"right/1\.png: not a JPEG, PNG or WebP image"):
        make_source(tmp_path).load(np.arange(2), 0)


def test_unknown_splits_and_missing_tables_are_named(tmp_path: Path) -> None:
    """A mistyped split would be an empty data set."""
    with pytest.raises(InputError, match=r"data\.csv: not there"):
        make_source(tmp_path)
    write_triplets(tmp_path, [row(0), row(1, split="val")])
    with pytest.raises(InputError, match=r"no split 'tarin'; it has train, val$"):
        make_source(tmp_path, split="tarin")
    with pytest.raises(InputError, match=r"split 'train' has no row with 8 votes or more"):
        make_source(tmp_path, min_votes=8)
    write_triplets(tmp_path, [])
    with pytest.raises(InputError, match=r"no split 'train'; it has no rows$"):
        make_source(tmp_path)


def test_the_shuffled_control_changes_the_pairing_only(tmp_path: Path) -> None:
    """The control would differ from the experiment in more than the judgement, or not at all."""
    write_triplets(tmp_path, [row(i, right_vote=i / 64) for i in range(30)])
    numbers = np.arange(30)
    real, control = make_source(tmp_path).load(numbers, 0), make_source(tmp_path, shuffled=True).load(numbers, 0)
    for part in ("reference", "left", "right", "samples"):
        assert torch.equal(getattr(real, part), getattr(control, part))
    assert sorted(control.right_vote.tolist()) == real.right_vote.tolist()
    assert real.right_vote.eq(control.right_vote).sum() <= 4  # 1 expected
    again, other = (make_source(tmp_path, shuffled=True, seed=s).load(numbers, 3).right_vote for s in (0, 1))
    assert torch.equal(again, control.right_vote)
    assert not torch.equal(other, control.right_vote)
