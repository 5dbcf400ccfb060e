"""BAPPS' folders become one table: p0 is left, p1 right, and what a file says is read as a number or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pineco.data_pipeline.prepare.confine import LINKED_FOLDER, MISSING, OUTSIDE, TOO_LARGE
from pineco.data_pipeline.prepare.samples.npy import parse_number
from pineco.data_pipeline.prepare.sources.bapps import BAD_JUDGEMENT
from tests.support.prepared import Prepare, rejections, write_npy
from tests.support.shards import solid
from tests.support.triplet_sets import images, sides, table, write_bapps


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def share(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def test_judgements_meet_their_images(tmp_path: Path, prepare: Prepare) -> None:
    """The share of those who preferred p1 would be taken for p0, or for another triplet."""
    judgements = {"val/cnn/000000": share(0.2), "train/cnn/000000": share(0.5), "train/mix/000000": share(1)}
    assert prepare("bapps", write_bapps(tmp_path / "src", judgements), tmp_path / "dst").code == 0
    rows = table(tmp_path / "dst")
    assert [tuple(row.values())[:5] for row in rows] == [
        ("train/cnn/000000", "train", "0.5", "0.5", "2"),
        ("train/mix/000000", "train", "0.0", "1.0", "2"),
        ("val/cnn/000000", "val", "0.8", "0.2", "5"),
    ]
    for row, first in zip(rows, (3, 6, 0), strict=True):
        assert sides(tmp_path / "dst", row) == [solid(first), solid(first + 1), solid(first + 2)]


def test_a_pickled_judgement_is_not_loaded(tmp_path: Path, prepare: Prepare) -> None:
    """S2: a downloaded data set would run code on the machine that prepares it."""
    canary = tmp_path / "canary"
    source = write_bapps(tmp_path / "src", {"train/cnn/0": share(0.5), "train/cnn/1": 0, "train/cnn/2": 0})
    np.save(source / "train/cnn/judge/1.npy", np.array([Canary(canary)], object), allow_pickle=True)
    (source / "train/cnn/judge/2.npy").write_bytes(pickle.dumps(Canary(canary)))
    assert prepare("bapps", source, tmp_path / "dst").code == 0
    assert not canary.exists()
    assert rejections(tmp_path / "dst") == {"train/cnn/1": BAD_JUDGEMENT, "train/cnn/2": BAD_JUDGEMENT}
    pickle.loads((source / "train/cnn/judge/2.npy").read_bytes())
    assert canary.exists(), "the canary does not sing: this test shows nothing"


BAD = {
    "two numbers": np.array([0.5, 0.5]),
    "no number": np.array([], np.float64),
    "out of range": share(1.5),
    "negative": share(-0.5),
    "NaN": share(np.nan),
    "text": np.array(["0.5"]),
    "complex": np.array([0.5j]),
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_bad_judgement_is_left_out_and_named(tmp_path: Path, prepare: Prepare, value: np.ndarray) -> None:
    """A vote that nobody gave would be trained on."""
    source = write_bapps(tmp_path / "src", {"train/cnn/0": share(0.5), "train/cnn/1": value})
    assert prepare("bapps", source, tmp_path / "dst").code == 0
    assert rejections(tmp_path / "dst") == {"train/cnn/1": BAD_JUDGEMENT}


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i8", "|u1", ">u2"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_every_plain_number_is_read(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Judgements that somebody saved in another type would be lost."""
    write_npy(tmp_path / "x.npy", np.ones(shape, dtype))
    assert parse_number((tmp_path / "x.npy").read_bytes()) == 1


def test_a_header_that_promises_more_is_refused(tmp_path: Path) -> None:
    """S2: numpy would allocate what a header of a few bytes claims."""
    write_npy(tmp_path / "x.npy", share(0.5))
    data = (tmp_path / "x.npy").read_bytes()
    for bad in (
        data.replace(b"(1,)", b"(9,)"),
        data[:-1],
        data + b"\0",
        data[:20],
        b"",
        data.replace(b"\x01\0v", b"\x02\0v"),
        data.replace(b"(1,), }" + b" " * 20, b"(999999999999999,), }      "),
        data.replace(b"(1,), }" + b" " * 20, b"(-1,), }                   "),
        data.replace(b"{", b"("),
        data.replace(b"{'descr': '<f4',", b"{'descr': ((((("),
        data.replace(b"'<f4'", b"'<f9'"),
        data.replace(b"'<f4'", b"'<M8'"),
        data[:8] + (4000).to_bytes(2, "little") + b"[" * 4000,
    ):
        with pytest.raises(ValueError, match=r"."):
            parse_number(bad)


def test_what_is_missing_linked_or_large_is_left_out(tmp_path: Path, prepare: Prepare) -> None:
    """S2: files from outside of SRC would be published, or one lost image stop the rest."""
    names = [f"train/cnn/{i}" for i in range(4)]
    source = write_bapps(tmp_path / "src", dict.fromkeys(names, share(0.5)))
    (source / "train/cnn/p1/1.png").unlink()
    (tmp_path / "judge.npy").write_bytes((source / "train/cnn/judge/2.npy").read_bytes())
    (source / "train/cnn/judge/2.npy").unlink()
    (source / "train/cnn/judge/2.npy").symlink_to(tmp_path / "judge.npy")
    (source / "train/cnn/judge/3.npy").write_bytes(bytes(10_000))
    (source / "val").mkdir()
    (source / "val" / "cnn").symlink_to(source / "train" / "cnn")
    assert prepare("bapps", source, tmp_path / "dst").code == 0
    assert images(tmp_path / "dst") == [solid(0), solid(1), solid(2)]
    assert rejections(tmp_path / "dst") == {
        "train/cnn/1": MISSING, "train/cnn/2": OUTSIDE, "train/cnn/3": TOO_LARGE, "val/cnn": LINKED_FOLDER
    }  # fmt: skip


def test_another_layout_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """The folder above `2afc` would become an empty data set."""
    source = write_bapps(tmp_path / "src" / "2afc", {"train/cnn/0": share(0.5)}).parent
    done = prepare("bapps", source, tmp_path / "dst")
    assert (done.code, "2afc" in done.err, done.err.count("\n")) == (2, True, 1)
