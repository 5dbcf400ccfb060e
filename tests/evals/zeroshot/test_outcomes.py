"""Outcomes on disk: exact, small, and nothing else is taken for them."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pineco.data_pipeline.errors import InputError
from pineco.evals.zeroshot.outcomes import (
    ClassificationOutcomes,
    Outcomes,
    chance,
    image_count,
    load_outcomes,
    metrics,
    paired,
    save_outcomes,
)
from tests.support.outcomes import MAKE, Make, classification, multilabel, retrieval


def same(a: Outcomes, b: Outcomes) -> bool:
    def equal(x: object, y: object) -> bool:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            return x.dtype == y.dtype and torch.equal(x, y)
        return x == y

    mine, other = vars(a), vars(b)
    return type(a) is type(b) and all(equal(mine[name], other[name]) for name in mine)


@MAKE
def test_what_is_saved_comes_back(make: Make, tmp_path: Path) -> None:
    """A comparison would be of other figures than the reports show."""
    outcomes = make()
    save_outcomes(tmp_path / "a.safetensors", outcomes)
    assert same(load_outcomes(tmp_path / "a.safetensors"), outcomes)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@MAKE
def test_figures_and_chance_have_the_same_names(make: Make) -> None:
    """A result would be refused, or a figure stand beside the chance of another one."""
    outcomes = make()
    assert list(metrics(outcomes)) == list(chance(outcomes))
    assert all(0 <= share <= 1 for share in (*metrics(outcomes).values(), *chance(outcomes).values()))


def test_images_are_counted_once_whatever_their_captions() -> None:
    """A report would give the number of captions as that of its images."""
    assert [image_count(make()) for make in (classification, retrieval, multilabel)] == [40, 12, 20]


@MAKE
def test_the_same_outcomes_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    """A file's sum would say that a measurement changed where it did not."""
    for name in "abcdef":
        save_outcomes(tmp_path / name, make())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(("classes", "wide"), [(256, 1), (257, 2), (2**15, 2), (2**15 + 1, 4)])
def test_integers_take_what_the_largest_needs(classes: int, wide: int, tmp_path: Path) -> None:
    """ImageNet's outcomes would take 800 kB a checkpoint instead of 200, or large numbers would wrap round."""
    largest = torch.tensor([0, classes - 1] * 500)
    outcomes = ClassificationOutcomes(largest, largest.flip(0), classes)
    save_outcomes(tmp_path / "a", outcomes)
    assert 2000 * wide < (tmp_path / "a").stat().st_size < 2000 * wide + 400
    assert same(load_outcomes(tmp_path / "a"), outcomes)


@MAKE
def test_every_flipped_bit_is_noticed(make: Make, tmp_path: Path) -> None:
    """A damaged disk would change a rank, and so a comparison, without a word."""
    path = tmp_path / "a"
    save_outcomes(path, make())
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")  # of safetensors' header, padded with spaces that mean nothing
    for number in (*range(len(whole[:end].rstrip())), *range(end, len(whole))):
        damaged = bytearray(whole)
        damaged[number] ^= 1 << number % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="delete it and measure again") as refused:
            load_outcomes(path)
        assert "\n" not in str(refused.value)


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    """Some other file in the folder would be read as a measurement, or end in a traceback."""
    path = tmp_path / "a"
    ranks = {"labels": torch.zeros(3, dtype=torch.int64), "ranks": torch.zeros(3, dtype=torch.int64)}
    save_outcomes(path, classification())
    cut = path.read_bytes()[:-1]
    with pytest.raises(InputError, match="measure again"):
        load_outcomes(tmp_path / "missing")
    for data in (b"", b"no safetensors", cut):
        path.write_bytes(data)
        with pytest.raises(InputError, match="measure again"):
            load_outcomes(path)
    for metadata in (None, {"pineco.outcomes": "{"}, {"pineco.outcomes": '{"kind": "segmentation"}'}):
        save_file(ranks, path, metadata)
        with pytest.raises(InputError, match="measure again"):
            load_outcomes(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would cost the outcomes that were there, or leave half a file under their name."""
    path = tmp_path / "a"
    save_outcomes(path, classification())
    before = path.read_bytes()

    def fail(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        save_outcomes(path, classification(seed=1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_loaded_outcomes_outlive_their_file(tmp_path: Path) -> None:
    """Scores that are mapped from the file would change, or the process die, when the file is written over."""
    path = tmp_path / "a"
    save_outcomes(path, multilabel())
    loaded = load_outcomes(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert same(loaded, multilabel())


@MAKE
def test_two_models_on_the_same_data_pair_up(make: Make) -> None:
    """No two models could be compared."""
    paired(make(seed=0), make(seed=5))


def test_outcomes_on_other_data_do_not_pair_up() -> None:
    """A difference would be computed between images that have nothing to do with each other."""
    for a, b, message in (
        (classification(), retrieval(), "classification and of retrieval"),
        (classification(), classification(images=41), "40 and of 41"),
        (classification(), classification(classes=6), "labels differ"),
        (classification(images=4, classes=7), classification(images=4, classes=8), "labels differ"),
        (retrieval(captions=2), retrieval(captions=3), "labels differ"),
        (multilabel(classes=3), multilabel(classes=4), "labels differ"),
    ):
        with pytest.raises(InputError, match=message):
            paired(a, b)


def test_the_kind_is_told_without_reading_the_figures(tmp_path: Path) -> None:
    """Other programs could not tell what a file holds."""
    save_outcomes(tmp_path / "a", classification())
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert '"kind": "classification", "classes": 7' in file.metadata()["pineco.outcomes"]
