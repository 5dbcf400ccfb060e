"""Triplets: rows that cannot be trusted are named, the control keeps all but the judgement, bad images are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import GROUP_BYTES, build_index
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.reading.quarantine import read_ledger
from pineco.data_pipeline.triplets.source import TripletSource
from pineco.data_pipeline.triplets.table import COLUMNS, NIGHTS_COLUMNS
from tests.support.shards import solid, write_shard
from tests.support.triplet_files import Row, load, make_source, row, write_triplets


def test_images_meet_their_own_vote(tmp_path: Path) -> None:
    """The model would learn from judgements of other images, or with left and right exchanged."""
    source = make_source(write_triplets(tmp_path, [row(i) for i in range(12)]))
    numbers = np.array([5, 0, 11, 3])
    batch = load(source, numbers, epoch=0)
    assert (len(source), source.chosen.dropped, len(batch)) == (12, 0, 4)
    for part, images in enumerate((batch.reference, batch.left, batch.right)):
        assert (images.shape, images.dtype) == ((4, 3, 8, 8), torch.uint8)
        assert images[:, 0].flatten(1).unique(dim=1).flatten().tolist() == (3 * numbers + part).tolist()
    assert batch.right_vote.dtype == torch.float32
    assert batch.right_vote.tolist() == [0, 1, 0, 1]
    assert batch.samples.tolist() == numbers.tolist()


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """A table with its columns in another order would be read with wrong votes."""
    rows = [row(i, right_vote=0.125 * i, note="x") for i in range(4)]
    source = make_source(write_triplets(tmp_path, rows, ("note", *reversed(NIGHTS_COLUMNS), "note")))
    assert load(source, np.arange(4), 0).right_vote.tolist() == [0, 0.125, 0.25, 0.375]


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
    assert (len(source), source.chosen.few_votes, source.chosen.ties) == (2, 1, 1)
    assert load(source, np.arange(2), 0).reference[:, 0, 0, 0].tolist() == [0, 9]
    assert len(make_source(tmp_path, min_votes=0)) == 3


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    """The model would be trained on what it is tested on."""
    source = make_source(
        write_triplets(tmp_path, [row(i, split=("train", "test")[i % 2]) for i in range(6)]), split="test"
    )
    assert load(source, np.arange(len(source)), 0).reference[:, 0, 0, 0].tolist() == [3, 9, 15]


def test_every_triplet_is_its_own_extent(tmp_path: Path) -> None:
    """Triplets would be shuffled in runs though each is a file of its own."""
    extents = make_source(write_triplets(tmp_path, [row(i) for i in range(5)])).extents(lanes=2)
    assert (extents.first.tolist(), extents.size.tolist()) == ([0, 1, 2, 3, 4], [1] * 5)


@pytest.mark.parametrize("column", NIGHTS_COLUMNS)
def test_missing_columns_are_named(tmp_path: Path, column: str) -> None:
    """A table of another layout would fail with a KeyError deep in the code."""
    write_triplets(tmp_path, [row(0)], tuple(c for c in NIGHTS_COLUMNS if c != column))
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
        ({"votes": "inf"}, "votes is 'inf'; it must be a whole number and not negative"),
        ({"votes": "nan"}, "votes is 'nan'; it must be a whole number"),
        ({"votes": "99999999999999999999"}, "votes is '99999999999999999999'; it must be a whole number"),
        ({"votes": "1e300"}, "votes is '1e300'; it must be a whole number"),
        ({"votes": 6.5}, "votes is '6.5'; it must be a whole number"),
        ({"votes": -6}, "votes is '-6'; it must be a whole number and not negative"),
        ({"left_vote": "x"}, "left_vote, right_vote or votes is no number"),
        ({"left_vote": "nan"}, "left_vote is nan and right_vote 0.0; they must add up to 1"),
        ({"left_vote": 5}, r"left_vote is 5\.0 and right_vote 0\.0; they must add up to 1"),
        ({"left_vote": 1.00001}, r"left_vote is 1\.00001 and right_vote 0\.0; they must add up to 1"),
        ({"ref_path": "../secret.png"}, "must be relative and stay inside the folder"),
        ({"left_path": "left/../../secret.png"}, "must be relative and stay inside the folder"),
        ({"right_path": "/etc/passwd"}, "must be relative and stay inside the folder"),
        ({"left_path": ""}, "must be relative and stay inside the folder"),
        ({"left_path": "/" + "x" * 9000}, r"path '/x{98} must be relative and stay inside the folder"),
    ],
)
def test_bad_rows_are_named_with_their_line(tmp_path: Path, changes: Row, message: str) -> None:
    """A vote outside [0, 1] would be a loss without bounds; a path could read any file of the machine.

    Rows of other splits are checked, too.
    """
    write_triplets(tmp_path, [row(0), row(1, split="val", **changes)])
    with pytest.raises(InputError, match=rf"data\.csv: line 3: .*{message}"):
        make_source(tmp_path)


@pytest.mark.parametrize("path", ["left/1.png\n", "a\nb.png", "a\rb.png", "a\u2028b.png", "a\0b.png"])
def test_a_path_that_breaks_a_line_is_named_in_one(tmp_path: Path, path: str) -> None:
    """The message about it would be cut in two, and the second half pass for another message."""
    write_triplets(tmp_path, [row(0), row(1, left_path=f'"{path}"')])
    with pytest.raises(InputError, match=r"data\.csv: line \d: path '.*' has a line break or a NUL") as caught:
        make_source(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_names_too_long_for_a_file_are_missing_files(tmp_path: Path) -> None:
    """A damaged table would end in a traceback, or fill the screen with one name."""
    write_triplets(tmp_path, [row(0), row(1, ref_path="r" * 300), row(2, left_path="d/" * 3000 + "x.png")])
    with pytest.raises(InputError, match=r"2 of its 9 images are not there: (d/){48}d\.\.\., r{97}\.\.\.; unpack"):
        make_source(tmp_path)


def test_missing_names_stay_in_their_line(tmp_path: Path) -> None:
    """A name with control characters would write over the message, or colour the rest of the terminal."""
    write_triplets(tmp_path, [row(0, ref_path="\x1b[31m.png"), row(1, ref_path="ref/1.png ")])
    with pytest.raises(InputError, match=r"not there: '\\x1b\[31m\.png', 'ref/1\.png '; unpack"):
        make_source(tmp_path)


def test_a_cut_row_is_named(tmp_path: Path) -> None:
    """The end of a table that was cut while it was copied would go for a row of no split."""
    table = write_triplets(tmp_path, [row(0), row(1)]) / "data.csv"
    table.write_text(table.read_text().rpartition(",")[0])
    with pytest.raises(InputError, match=r"data\.csv: line 3: 7 fields, 8 columns; the file was cut or edited"):
        make_source(tmp_path)


def test_missing_images_are_counted_and_named_at_the_start(tmp_path: Path) -> None:
    """A run would end in the middle of an epoch, or its user mend 10,000 paths one start at a time."""
    write_triplets(tmp_path, [row(0), row(1), row(2)])
    (tmp_path / "left" / "1.png").unlink()
    (tmp_path / "ref" / "2.png").unlink()
    with pytest.raises(
        InputError, match=r"data\.csv: 2 of its 9 images are not there: left/1\.png, ref/2\.png; unpack"
    ):
        make_source(tmp_path)
    for image in tmp_path.glob("*/*.png"):
        image.unlink()
    with pytest.raises(InputError, match=r"9 of its 9 images are not there: left/0\.png, (\S+, ){4}\.\.\.; unpack"):
        make_source(tmp_path)


def read_epoch(source: TripletSource, ledger: Path, bad_share: float = 1.0) -> tuple[list[int], list[dict[str, Any]]]:
    """The triplets of one epoch of the loader, and the bad ones that it wrote down."""
    settings = LoaderSettings(bad_share=bad_share, prefetch=0, ledger=ledger)
    loader = Loader(source, batch_size=2, lanes=2, seed=0, settings=settings)
    batches = loader.iterate(DataPosition())
    samples = [n for _ in range(loader.batches_per_epoch) for n in next(batches)[1].samples.tolist()]
    batches.close()
    return samples, read_ledger(ledger)


@pytest.mark.parametrize("side", ["ref", "left", "right"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_bad_image_is_named_and_replaced(tmp_path: Path, side: str, lost: bool) -> None:
    """One bad image among tens of thousands could not be found, or another image would be blamed."""
    source = make_source(write_triplets(tmp_path, [row(i) for i in range(6)]))
    path = tmp_path / side / "3.png"
    path.unlink() if lost else path.write_bytes(b"GIF89a")
    samples, (entry,) = read_epoch(source, tmp_path / "rank.jsonl")
    assert 3 not in samples
    assert (entry["sample"], entry["shard"], entry["key"]) == (3, str(tmp_path), f"{side}/3.png")
    assert ("No such file" if lost else ".png: not a JPEG, PNG or WebP image") in entry["reason"]


def test_more_bad_images_than_the_recipe_allows_stop_the_run(tmp_path: Path) -> None:
    """D2: data.bad_share would mean nothing for triplets, and a run go on over a folder that is half lost."""
    source = make_source(write_triplets(tmp_path, [row(i) for i in range(6)]))
    (tmp_path / "ref" / "1.png").unlink()
    samples, bad = read_epoch(source, tmp_path / "one.jsonl", bad_share=0)
    assert (len(samples), [entry["key"] for entry in bad]) == (6, ["ref/1.png"])
    (tmp_path / "left" / "4.png").unlink()
    with pytest.raises(InputError, match=r"2 bad samples.*bad_share"):
        read_epoch(source, tmp_path / "two.jsonl", bad_share=0)


def test_unknown_splits_and_missing_tables_are_named(tmp_path: Path) -> None:
    """A mistyped split would be an empty data set."""
    with pytest.raises(InputError, match=r"holds neither NIGHTS' data\.csv nor \*\.tar shards of triplets"):
        make_source(tmp_path)
    write_triplets(tmp_path, [row(0), row(1, split="val")])
    with pytest.raises(InputError, match=r"no split 'tarin'; it has train, val$"):
        make_source(tmp_path, split="tarin")
    with pytest.raises(InputError, match=r"split 'train' has no row with 8 votes or more"):
        make_source(tmp_path, min_votes=8)
    write_triplets(tmp_path, [])
    with pytest.raises(InputError, match=r"no split 'train'; it has no rows$"):
        make_source(tmp_path)


IMAGES = 9  # in shards of five and four; image i is of colour i


def write_table(root: Path, rows: Sequence[tuple[object, object, object]], **changes: object) -> Path:
    """Shards of IMAGES images, and a table of these triplets of them."""
    for name, numbers in (("0.tar", range(5)), ("1.tar", range(5, IMAGES))):
        write_shard(root / name, [(f"{i:03}.png", solid(i)) for i in numbers])
    lines: list[tuple[str, ...]] = [COLUMNS]
    for i, sides in enumerate(rows):
        fields = {"split": "train", "left_vote": 1 - i % 2, "right_vote": i % 2, "votes": 7, "id": i} | changes
        lines.append((*(str(field) for field in fields.values()), *map(str, sides)))
    (root / "triplets.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    return root


def test_triplets_over_shards(tmp_path: Path) -> None:
    """Triplets of prepared data sets would show other images than people judged."""
    rows = [(0, 1, 2), (8, 0, 5), (4, 4, 3), (7, 1, 0)]
    source = make_source(write_table(tmp_path, rows))
    batch = load(source, np.array([2, 0, 3, 1]))
    for side, images in enumerate((batch.reference, batch.left, batch.right)):
        assert images[:, 0, 0, 0].tolist() == [rows[n][side] for n in (2, 0, 3, 1)]
    assert batch.right_vote.tolist() == [0, 0, 1, 1]
    loader = Loader(source, batch_size=2, lanes=2, seed=0, settings=LoaderSettings(connections=2))
    batches = loader.iterate(DataPosition())
    for _ in range(8):
        _, got = next(batches)
        for slot, n in enumerate(got.samples.tolist()):
            assert (got.reference[slot, 0, 0, 0], got.left[slot, 0, 0, 0], got.right[slot, 0, 0, 0]) == rows[n]
    batches.close()


def test_a_damaged_image_of_a_shard_is_named(tmp_path: Path) -> None:
    """D2: the triplet would be blamed on its reference, or shown with a damaged image."""
    source = make_source(write_table(tmp_path, [(0, 6, 2), (8, 0, 5)]))
    with (tmp_path / "1.tar").open("r+b") as shard:
        shard.seek(data_offset := (tmp_path / "1.tar").read_bytes().index(b"006.png") + 512)
        shard.write(b"\0")
    samples, (entry,) = read_epoch(source, tmp_path / "rank.jsonl")
    assert samples == [1, 1]
    assert (entry["shard"], entry["key"], entry["offset"]) == (str(tmp_path / "1.tar"), "006", data_offset)
    assert "not those that were indexed" in entry["reason"]


def test_a_sample_of_a_shard_without_an_image_is_named(tmp_path: Path) -> None:
    """D2: a triplet would be shown with a picture that is not there, or with the one before it."""
    root = write_table(tmp_path, [(0, 6, 2), (8, 0, 5), (1, 2, 3), (4, 5, 7)])
    write_shard(root / "1.tar", [(f"{i:03}.{'txt' if i == 6 else 'png'}", solid(i)) for i in range(5, IMAGES)])
    samples, (entry,) = read_epoch(make_source(root), tmp_path / "rank.jsonl")
    assert set(samples) <= {1, 2, 3}
    assert (entry["sample"], entry["shard"], entry["key"]) == (0, str(root / "1.tar"), "006")
    assert "lacks an image" in entry["reason"]


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    """D2: every number in the table that lies behind it would be of another image."""
    root = write_table(tmp_path, [(0, 1, 2)])
    build_index(str(root), workers=1)
    (root / "0.tar").unlink()
    with pytest.raises(InputError, match=r"0\.tar"):
        make_source(root)


def test_runs_of_triplets_have_the_bytes_of_a_range(tmp_path: Path) -> None:
    """Triplets of small images would be read a few at a time, those of large ones by hundreds of megabytes."""
    source = make_source(write_table(tmp_path, [(0, 1, 2)] * 90_000))
    most = int(GROUP_BYTES / (3 * source.reader.row_bytes))
    extents = source.extents(lanes=1)
    assert extents.samples == 90_000
    assert extents.size.max() == most < 90_000 / 32


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((0, 1, IMAGES), f"names a sample that is not there; the shards hold {IMAGES}"),
        ((-1, 1, 2), "names a sample that is not there"),
        (("a", 1, 2), "ref, left or right is no sample number"),
        (("", 1, 2), "ref, left or right is no sample number"),
        ((0.5, 1, 2), "ref, left or right is no sample number"),
    ],
)
def test_bad_sample_numbers_are_named(tmp_path: Path, sides: tuple[object, object, object], message: str) -> None:
    """A table of other shards would pair judgements with images that nobody judged."""
    with pytest.raises(InputError, match=rf"triplets\.csv: line 3: {message}"):
        make_source(write_table(tmp_path, [(0, 1, 2), sides]))


def test_shards_without_a_table_are_named(tmp_path: Path) -> None:
    """Plain image shards would fail deep in the code."""
    (write_table(tmp_path, []) / "triplets.csv").unlink()
    with pytest.raises(InputError, match=r"triplets\.csv: not there; write the triplets with pineco data prepare"):
        make_source(tmp_path)


def test_the_shuffled_control_changes_the_pairing_only(tmp_path: Path) -> None:
    """The control would differ from the experiment in more than the judgement, or not at all."""
    write_triplets(tmp_path, [row(i, right_vote=i / 64) for i in range(30)])
    numbers = np.arange(30)
    real, control = load(make_source(tmp_path), numbers, 0), load(make_source(tmp_path, shuffled=True), numbers, 0)
    for part in ("reference", "left", "right", "samples"):
        assert torch.equal(getattr(real, part), getattr(control, part))
    assert sorted(control.right_vote.tolist()) == real.right_vote.tolist()
    assert real.right_vote.eq(control.right_vote).sum() <= 4  # 1 expected
    again, other = (load(make_source(tmp_path, shuffled=True, seed=s), numbers, 3).right_vote for s in (0, 1))
    assert torch.equal(again, control.right_vote)
    assert not torch.equal(other, control.right_vote)


def test_the_shuffled_control_is_dealt_within_the_share(tmp_path: Path) -> None:
    """The control of a share would see votes, or a balance of votes, that the experiment on that share does not see."""
    write_triplets(tmp_path, [row(i, right_vote=i / 256) for i in range(80)])
    numbers = np.arange(24)
    real, control = (load(make_source(tmp_path, share=0.3, shuffled=s), numbers) for s in (False, True))
    for part in ("reference", "left", "right", "samples"):
        assert torch.equal(getattr(real, part), getattr(control, part))
    assert sorted(control.right_vote.tolist()) == sorted(real.right_vote.tolist())
    assert real.right_vote.eq(control.right_vote).sum() <= 4  # 1 expected
    assert (real.right_vote * 256).int().tolist() == (real.reference[:, 0, 0, 0].int() // 3).tolist()


def test_votes_stay_shares(tmp_path: Path) -> None:
    """Whoever weighs a judgement by the share of people behind it would be given the majority alone."""
    source = make_source(write_triplets(tmp_path, [row(i, right_vote=i / 8) for i in range(8)]))
    assert load(source, np.arange(7)).right_vote.tolist() == [i / 8 for i in range(8) if i != 4]


def test_the_log_says_what_is_left_out(tmp_path: Path) -> None:
    """Nine tenths of a data set could be dropped, and nobody would know before the paper is written."""
    rows = [row(i, votes=5 + (i > 2), right_vote=0.5 if i == 9 else 1) for i in range(24)]
    write_triplets(tmp_path, [*rows, row(24, split="val")])
    assert make_source(tmp_path, share=0.4).describe() == (
        f"{tmp_path}/data.csv: 8 of 24 triplets of split 'train' (other splits: val 1), "
        "without 3 with fewer than 6 votes, "
        "1 with equal votes, 12 beyond a share of 0.4"
    )
    control = make_source(tmp_path, split="val", shuffled=True)
    assert control.describe() == (
        f"{tmp_path}/data.csv: 1 of 1 triplets of split 'val' (other splits: train 24), with shuffled votes"
    )
