"""Triplets of classes: right about classes, balanced in sides, no image in two splits, the same for ever."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pineco.data_pipeline.batches import TripletBatch
from pineco.data_pipeline.prepare.confine import OUTSIDE
from pineco.data_pipeline.prepare.outcome import RejectError
from pineco.data_pipeline.prepare.samples.twins import first_twins
from pineco.data_pipeline.prepare.sources.class_triplets import ELSEWHERE, SAME, Draw, deal_images, draw_triplets
from pineco.data_pipeline.prepare.sources.image_source import CUT_TAR, Place, TarMembers
from pineco.data_pipeline.prepare.sources.judgements import COLUMNS, LOST_IMAGE, Judgements
from pineco.data_pipeline.prepare.sources.labelled import NO_CLASS, open_labelled
from pineco.data_pipeline.prepare.sources.raw_samples import DUPLICATE
from pineco.data_pipeline.prepare.sources.yfcc15m import NO_IMAGE
from pineco.data_pipeline.triplets.source import TripletSource, open_triplets
from tests.support.prepared import Prepare, prepared, rejections, tree
from tests.support.shards import encode, solid, write_shard
from tests.support.triplet_sets import images, table

EACH = 20  # images of a class; image i of class c is of colour EACH c + i


def write_classes(root: Path, classes: int = 3) -> Path:
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(EACH):
            (root / f"class{c}" / f"{i:02}.png").write_bytes(solid(EACH * c + i))
    return root


def members(classes: int = 3) -> list[tuple[str, bytes]]:
    """The same images as samples of shards, in the same order."""
    files = []
    for n in range(EACH * classes):
        files += [(f"s{n:07}.png", solid(n)), (f"s{n:07}.cls", b"%d\n" % (n // EACH))]
    return files


def write_set(root: Path, classes: int = 3) -> Path:
    """An evaluation set in two shards."""
    files = members(classes)
    write_shard(root / "test" / "0.tar", files[:50])
    write_shard(root / "test" / "1.tar", files[50:])
    (root / "test" / "nshards.txt").write_text("2\n")
    return root


COLOURS = {solid(n): n for n in range(3 * EACH)}


def colours(row: dict[str, str], every: list[bytes]) -> list[int]:
    return [COLOURS[every[int(row[side])]] for side in ("ref", "left", "right")]


def draw(classes: np.ndarray, triplets: int, seed: int = 0) -> tuple[np.ndarray, Judgements]:
    homes = deal_images(classes, seed)
    return homes, draw_triplets(classes, homes, Draw(triplets=triplets, seed=seed), "there")


CLASSES = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 30))  # of 300 images


@pytest.mark.parametrize("write", [write_classes, write_set])
def test_the_vote_is_for_the_same_class(tmp_path: Path, prepare: Prepare, write: object) -> None:
    """The control would teach that images of other classes are alike, or its table could not be read as others are."""
    assert callable(write)
    assert prepare("class-triplets", write(tmp_path / "src"), tmp_path / "dst", "--triplets", 200).code == 0
    rows, every = table(tmp_path / "dst"), images(tmp_path / "dst")
    assert tuple(rows[0]) == COLUMNS
    assert Counter(row["split"] for row in rows) == {"train": 160, "val": 20, "test": 20}
    assert [row["id"] for row in rows] == [str(i) for i in range(200)]
    for row in rows:
        reference, left, right = colours(row, every)
        same, other = (right, left) if row["right_vote"] == "1.0" else (left, right)
        assert {row["left_vote"], row["right_vote"], row["votes"]} == {"0.0", "1.0", "1"}
        assert reference // EACH == same // EACH != other // EACH
        assert reference != same


def test_folders_and_shards_give_the_same_triplets(tmp_path: Path, prepare: Prepare) -> None:
    """The control would depend on how the same images are stored."""
    for name, source in (("a", write_classes(tmp_path / "folders")), ("b", write_set(tmp_path / "shards"))):
        assert prepare("class-triplets", source, tmp_path / name, "--triplets", 60, "--shard-size", 7).code == 0
    a, b = (tree(tmp_path / name) for name in "ab")
    assert len([name for name in a if name.endswith(".tar")]) > 3
    for name in (n for n in a if n.endswith((".tar", ".csv"))):
        assert a[name] == b[name]


def test_shards_may_lie_in_the_folder_itself(tmp_path: Path, prepare: Prepare) -> None:
    """Prepared shards of class folders would be refused, or images be taken of the wrong split."""
    (write_set(tmp_path / "src") / "test").rename(tmp_path / "src" / "train")
    assert prepare("class-triplets", tmp_path / "src", tmp_path / "dst", "--triplets", 20).code == 2
    assert prepare("class-triplets", tmp_path / "src", tmp_path / "a", "--triplets", 20, "--split", "train").code == 0
    assert prepare("class-triplets", tmp_path / "src" / "train", tmp_path / "b", "--triplets", 20).code == 0
    assert table(tmp_path / "a") == table(tmp_path / "b")


@pytest.mark.parametrize("seed", [0, 1])
def test_no_image_is_in_two_splits(seed: int) -> None:
    """A score on held-out triplets would be one on images that were trained on; a split would lack classes."""
    homes, rows = draw(CLASSES, 5000, seed)
    for split in range(3):
        assert set(homes[rows.images[rows.split == split]].ravel().tolist()) == {split}
        assert Counter(CLASSES[homes == split].tolist()) == dict.fromkeys(range(10), (24, 3, 3)[split])


def test_sides_are_balanced_in_every_split() -> None:
    """A model could win by always saying left."""
    _, rows = draw(CLASSES, 1230)
    for split in range(3):
        votes = rows.right_vote[rows.split == split]
        assert abs(votes.sum() - len(votes) / 2) <= 0.5
        assert 0 < votes[::2].mean() < 1  # a coin, not always left and right in turn


def test_every_image_is_drawn_alike() -> None:
    """The control would be one on a few images or classes."""
    homes, rows = draw(CLASSES, 60_000)
    train = rows.images[rows.split == 0]
    for side in (train[:, 0], train[:, 1:].ravel()):
        counts = np.bincount(side, minlength=len(CLASSES))[homes == 0]
        expected = len(side) / 240
        assert len(counts) == 240
        assert np.abs(counts - expected).max() < 6 * expected**0.5
    other = np.where(rows.right_vote == 1, rows.images[:, 1], rows.images[:, 2])[rows.split == 0]
    pairs = np.bincount(10 * CLASSES[train[:, 0]] + CLASSES[other], minlength=100).reshape(10, 10)
    assert (np.diag(pairs) == 0).all()
    expected = len(train) / 90
    assert np.abs(pairs[~np.eye(10, dtype=bool)] - expected).max() < 6 * expected**0.5


def test_a_draw_is_for_ever() -> None:
    """A control drawn again elsewhere would be another one, and figures could not be compared."""
    homes, rows = draw(CLASSES, 10)
    assert homes[:20].tolist() == [0, 2, 0, 0, 0, 0, 0, 1, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert rows.images.tolist() == [
        [242, 74, 199],
        [69, 88, 299],
        [271, 261, 287],
        [268, 282, 17],
        [232, 252, 108],
        [74, 269, 42],
        [83, 227, 268],
        [84, 32, 31],
        [151, 95, 159],
        [125, 24, 214],
    ]
    assert rows.right_vote.tolist() == [0, 1, 0, 1, 1, 0, 0, 1, 0, 1]


def test_more_triplets_keep_the_first_ones() -> None:
    """A larger control would not contain the smaller one, so that size could not be told from luck."""
    (homes, few), (again, many) = draw(CLASSES, 100), draw(CLASSES, 1000)
    assert (homes == again).all()
    for split, count in enumerate((80, 10, 10)):
        for column in ("images", "right_vote"):
            short, long = (getattr(rows, column)[rows.split == split] for rows in (few, many))
            assert (short == long[:count]).all()
    assert (draw(CLASSES, 100, seed=1)[1].images != few.images).any()


def test_a_file_in_two_classes_or_splits_is_left_out(tmp_path: Path, prepare: Prepare) -> None:
    """An image would be trained on and tested with, or be alike to itself and unlike to its copy."""
    source = write_classes(tmp_path / "src")
    for i in range(10):
        (source / "class1" / f"{i:02}.png").write_bytes(solid(i))  # of class 0
        (source / "class2" / f"{i + 10}.png").write_bytes(solid(2 * EACH + i))  # twice in class 2
    assert prepare("class-triplets", source, tmp_path / "dst", "--triplets", 600).code == 0
    rows, lost = table(tmp_path / "dst"), rejections(tmp_path / "dst")
    assert set(lost.values()) == {ELSEWHERE, SAME}
    assert {f"triplet {row['id']}" for row in rows} | lost.keys() == {f"triplet {i}" for i in range(600)}
    assert len(rows) + len(lost) == 600
    splits: dict[str, set[str]] = {}
    for row in rows:
        assert len({row["ref"], row["left"], row["right"]}) == 3
        for side in ("ref", "left", "right"):
            splits.setdefault(row[side], set()).add(row["split"])
    assert {len(found) for found in splits.values()} == {1}
    assert len(set(images(tmp_path / "dst"))) == len(images(tmp_path / "dst")) == len(splits)
    every = images(tmp_path / "dst")
    for row in rows:
        reference, left, right = colours(row, every)
        assert (left // EACH == reference // EACH) != (right // EACH == reference // EACH)


def test_a_bad_image_takes_its_triplets_with_it(tmp_path: Path, prepare: Prepare) -> None:
    """S1: sample numbers would shift, and a file from outside of SRC be published."""
    source = write_classes(tmp_path / "src")
    (tmp_path / "secret.png").write_bytes(solid(200))
    (source / "class0" / "03.png").unlink()
    (source / "class0" / "03.png").symlink_to(tmp_path / "secret.png")
    (source / "class1" / "05.png").write_bytes(solid(25)[:40])
    (source / "class2" / "07.png").write_bytes(encode(Image.new("P", (4, 4)), "GIF"))
    assert prepare("class-triplets", source, tmp_path / "dst", "--triplets", 300).code == 0
    lost, rows = rejections(tmp_path / "dst"), table(tmp_path / "dst")
    assert {lost.pop(path) for path in ("class0/03.png", "class1/05.png", "class2/07.png")} == {
        OUTSIDE, "image does not decode", "no JPEG, PNG or WebP image"
    }  # fmt: skip
    assert set(lost.values()) == {LOST_IMAGE}
    assert len(rows) + len(lost) == 300
    assert solid(200) not in images(tmp_path / "dst")
    every = images(tmp_path / "dst")
    for row in rows:
        reference, left, right = colours(row, every)
        assert (left // EACH == reference // EACH) != (right // EACH == reference // EACH)


def test_samples_without_a_class_or_an_image_are_named(tmp_path: Path) -> None:
    """A sample would get the class of another one, or stop the preparation of a million good ones."""
    bad = [
        ("a.jpg", b"x"), ("b.cls", b"1"), ("c.jpg", b"x"), ("c.cls", b"cat"), ("d.jpg", b"x"), ("d.cls", b"9" * 40),
        ("e.jpg", b"x"), ("e.cls", b""), ("f.jpg", b"x"), ("f.cls", "²".encode()), ("g.JPG", b"x"), ("g.cls", b" 7\n"),
        ("g2.txt", b"x"), ("g.jpg", b"y"), ("g.cls", b"8"),
    ]  # fmt: skip
    write_shard(tmp_path / "0.tar", bad)
    found = open_labelled(tmp_path.resolve(), None)
    assert (found.paths, found.classes.tolist()) == (["0.tar/g"], [7])
    assert found.images.read("0.tar/g") == b"x"
    reasons = {rejected.path[6:]: rejected.reason for rejected in found.rejected}
    assert reasons == {"a": NO_CLASS, "b": NO_IMAGE, **dict.fromkeys("cdef", NO_CLASS), "g2": NO_CLASS, "g": DUPLICATE}


def test_a_tar_that_was_cut_meanwhile_is_noticed(tmp_path: Path) -> None:
    """S1: with --verify none, half an image would be stored."""
    write_shard(tmp_path / "0.tar", [("a.jpg", b"x" * 100)])
    with pytest.raises(RejectError, match=CUT_TAR):
        TarMembers(tmp_path.resolve(), {"a": Place("0.tar", 512, 1 << 20)}).read("a")
    with pytest.raises(RejectError, match="too large"):
        TarMembers(tmp_path.resolve(), {"a": Place("0.tar", 512, 1 << 30)}).read("a")


def test_twins_in_shards_are_found(tmp_path: Path) -> None:
    """The same image in two shards would be in two splits."""
    write_shard(tmp_path / "0.tar", [("a.jpg", b"xy"), ("a.cls", b"0"), ("b.jpg", b"yx"), ("b.cls", b"0")])
    write_shard(tmp_path / "1.tar", [("a.jpg", b"yx"), ("a.cls", b"1")])
    found = open_labelled(tmp_path.resolve(), None)
    assert first_twins(found.images, found.paths, 2).tolist() == [0, 1, 1]


def one_class(root: Path) -> None:
    write_classes(root, 1)


def one_image_a_class(root: Path) -> None:
    for c in range(30):
        (root / f"{c:02}").mkdir(parents=True)
        (root / f"{c:02}" / "0.png").write_bytes(solid(c))


def few_images(root: Path) -> None:
    for path in write_classes(root).rglob("?[1-9].png"):
        path.unlink()


def splits_of_folders(root: Path) -> None:
    write_classes(root / "train")
    write_classes(root / "val")


def a_damaged_tar(root: Path) -> None:
    path = write_set(root) / "test" / "1.tar"
    path.write_bytes(path.read_bytes()[:1536])


def a_tar_from_elsewhere(root: Path) -> None:
    path = write_set(root) / "test" / "1.tar"
    path.rename(root.parent / "1.tar")
    path.symlink_to(root.parent / "1.tar")


def no_labels(root: Path) -> None:
    write_shard(root / "0.tar", [(name, data) for name, data in members() if name.endswith("png")])


def flat(root: Path) -> None:
    root.mkdir()
    (root / "0.png").write_bytes(solid(0))


REFUSED = {
    "one class": (one_class, "fall to split train, which needs"),
    "one image a class": (one_image_a_class, "fall to split train, which needs"),
    "few images": (few_images, "fall to split val, which needs"),
    "splits": (splits_of_folders, "pass --split train"),
    "a damaged tar": (a_damaged_tar, "1.tar: at byte"),
    "a tar from elsewhere": (a_tar_from_elsewhere, "1.tar: leads out of SRC"),
    "no labels": (no_labels, "no sample has an image and a .cls"),
    "no classes": (flat, "SRC/CLASS/NAME.jpg"),
}


@pytest.mark.parametrize(("write", "words"), REFUSED.values(), ids=REFUSED)
def test_a_source_that_gives_no_triplets_is_refused(
    tmp_path: Path, prepare: Prepare, write: object, words: str
) -> None:
    """The control would be drawn of something else than classes, or fail with a traceback."""
    assert callable(write)
    write(tmp_path / "src")
    done = prepare("class-triplets", tmp_path / "src", tmp_path / "dst", "--triplets", 100)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert not (tmp_path / "dst" / "triplets.csv").exists()


@pytest.mark.parametrize("options", [("--triplets", "9"), ("--seed", "-1"), ("--split", "..")])
def test_bad_options_are_refused(tmp_path: Path, prepare: Prepare, options: tuple[str, ...]) -> None:
    """S1: files next to SRC would be read, or a split be empty."""
    write_set(tmp_path / "src")
    write_shard(tmp_path / "0.tar", members())
    try:
        code = prepare("class-triplets", tmp_path / "src", tmp_path / "dst", *options).code
    except SystemExit as stop:  # argparse's
        code = int(str(stop.code))
    assert code == 2


def test_workers_and_a_second_call_change_no_byte(tmp_path: Path, prepare: Prepare) -> None:
    """A preparation that was stopped, or ran on another machine, would end with another control."""
    source, options = write_set(tmp_path / "src"), ("--triplets", 50, "--shard-size", 9)
    assert prepare("class-triplets", source, tmp_path / "one", *options).code == 0
    assert prepare("class-triplets", source, tmp_path / "many", *options, "--workers", 3).code == 0
    before = tree(tmp_path / "one")
    assert tree(tmp_path / "many") == before
    (tmp_path / "one" / "00001.tar").unlink()
    assert prepare("class-triplets", source, tmp_path / "one", *options).code == 0
    assert tree(tmp_path / "one") == before


@pytest.mark.parametrize(("option", "value"), [("triplets", 51), ("seed", 1)])
def test_another_draw_is_not_mixed_in(tmp_path: Path, prepare: Prepare, option: str, value: int) -> None:
    """Half of the images would be of one draw, half of another."""
    source, options = write_classes(tmp_path / "src"), ("--triplets", 50)
    assert prepare("class-triplets", source, tmp_path / "dst", *options).code == 0
    assert prepared(tmp_path / "dst")["options"] | {"triplets": 50, "seed": 0} == prepared(tmp_path / "dst")["options"]
    done = prepare("class-triplets", source, tmp_path / "dst", *options, f"--{option}", value)
    assert done.code == 2
    assert f"option {option}" in done.err


def test_training_reads_the_control(tmp_path: Path, prepare: Prepare) -> None:
    """The control could be prepared but not be trained on."""
    assert prepare("class-triplets", write_set(tmp_path / "src"), tmp_path / "dst", "--triplets", 40).code == 0
    for split, count in (("train", 32), ("val", 4), ("test", 4)):
        source = TripletSource(
            *open_triplets(str(tmp_path / "dst")), image_size=8, split=split, min_votes=1, seed=0, ties="refuse"
        )
        assert len(source) == count
        batch: TripletBatch = source.empty(1, pin=False)
        rows = source.rows(np.array([2]))
        found = source.reader.read(np.unique(rows))
        source.fill(batch, 0, 2, 0, [found[row] for row in rows[0].tolist()])  # type: ignore[misc]
        reference, left, right = (side[0, 0, 0, 0].item() for side in (batch.reference, batch.left, batch.right))
        same = right if batch.right_vote.item() == 1 else left
        assert reference // EACH == same // EACH


def test_real_images_of_classes(tmp_path: Path, prepare: Prepare, real_data: Path) -> None:
    """An evaluation set as people download it would not be read, or its labels not be those of its images."""
    assert prepare("class-triplets", real_data / "wds" / "mnist", tmp_path / "dst", "--triplets", 1000).code == 0
    found = open_labelled((real_data / "wds" / "mnist").resolve(), None)
    classes = {found.images.read(path): c for path, c in zip(found.paths, found.classes.tolist(), strict=True)}
    assert Counter(classes.values()) == dict.fromkeys(range(10), 200)
    every = [classes[data] for data in images(tmp_path / "dst")]
    for row in table(tmp_path / "dst"):
        reference, left, right = (every[int(row[side])] for side in ("ref", "left", "right"))
        same, other = (right, left) if row["right_vote"] == "1.0" else (left, right)
        assert reference == same != other
