"""The bench of the evaluation: that its cuts are the sets, its ratios fair, and its verdicts those of its figures."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.datasets import open_folder, read_examples
from tests.bench import bare_forward, peer_clip_benchmark
from tests.bench import evals as bench_evals
from tests.bench.eval_cuts import Cut, cut_sets
from tests.bench.evals import (
    OVER_PADDED,
    OVER_SHORT,
    PEERS_OVER_OURS,
    WHOLE_OVER_SHORT,
    Ours,
    Round,
    Setting,
    demands,
    figures,
    parity_record,
)
from tests.bench.peer_clip_benchmark import Pair, Peers, pair_up
from tests.support.coloured_sets import WriteFolder, colour_set, export_dir, picture, write_folder

__all__ = ["colour_set", "export_dir", "picture", "write_folder"]  # fixtures


@pytest.fixture
def caption_set(write_folder: WriteFolder) -> Path:
    """Five images with two captions each."""
    samples = [{"jpg": b"image %d" % i, "txt": f"photo {i}\nsame".encode()} for i in range(5)]
    return write_folder("captions", samples, classnames=None, templates=None, kind="retrieval")


def test_a_cut_is_the_first_of_everything(tmp_path: Path, colour_set: Path, caption_set: Path) -> None:
    """Contestants would be given labels of other classes, or all that was to be left out."""
    cut = Cut(images=4, templates=1, classes=2)
    names = cut_sets(colour_set.parent, tmp_path / "cut", cut, ("colours", "captions"))
    assert names == ("colours_2", "captions")
    whole, small = open_folder(colour_set), open_folder(tmp_path / "cut" / "colours_2")
    assert (small.classnames, small.templates, len(small.shards)) == (("red", "green"), ("a {c} thing.",), 2)
    expected = [(e.image, e.label) for e in read_examples(whole) if e.label < 2][:4]
    assert [(e.image, e.label) for e in read_examples(small)] == expected
    captions = list(read_examples(open_folder(tmp_path / "cut" / "captions")))
    assert [(e.image, e.captions) for e in captions] == [(b"image %d" % i, (f"photo {i}", "same")) for i in range(4)]


def test_a_cut_without_a_limit_is_the_set(tmp_path: Path, colour_set: Path) -> None:
    """A record would say that nothing was cut, and not be of the whole set; or the set lose its name, so its task."""
    assert cut_sets(colour_set.parent, tmp_path / "cut", Cut(), ("colours",)) == ("colours",)
    whole, copy = open_folder(colour_set), open_folder(tmp_path / "cut" / "colours")
    assert copy.prompts == whole.prompts
    assert [e.image for e in read_examples(copy)] == [e.image for e in read_examples(whole)]


def test_a_cut_with_an_empty_shard_is_refused(tmp_path: Path, colour_set: Path) -> None:
    """clip-benchmark ends with a traceback where a worker finds nothing in its shard."""
    with pytest.raises(InputError, match="fewer than 2 shards"):
        cut_sets(colour_set.parent, tmp_path / "cut", Cut(images=1), ("colours",))


def turn(ours: float, peers: float, bare: float, stock: float | None = None) -> Round:
    parts = {"loading": 5, "image_tower": bare - 1, "short_texts": 1, "padded_texts": stock}
    bare_parts = {name: value and {"wall": value, "cpu": 2 * value} for name, value in parts.items()}
    return Round(Ours(ours + 5, ours + 5, ours, {}), Peers(peers, 2 * peers, {}), bare_parts)


def test_ratios_are_taken_round_by_round() -> None:
    """A slow minute of the machine would count as a slow contestant."""
    rounds = [turn(10, 45, 10), turn(105, 330, 100), turn(10, 30, 10)]
    found = {figure.what: figure for figure in figures(rounds)}
    assert found[OVER_SHORT].values == (1.0, 1.05, 1.0)
    assert found[PEERS_OVER_OURS].values == (3.0, 3.0, 2.0)
    assert found["bare forward, images"].median == 9
    assert "bare forward, texts of 77 tokens" not in found, "it was not measured"
    assert found[f"{PEERS_OVER_OURS}, computing"].values == (6.0, 6.0, 4.0)
    assert found[f"{WHOLE_OVER_SHORT}, computing"].median == 0.5
    padded = {figure.what: figure.values for figure in figures([turn(10, 45, 10, stock=11)])}
    assert padded[OVER_PADDED] == (0.5,), "images 9 s, texts of 77 tokens 11 s"


@pytest.mark.parametrize(
    ("ours", "peers", "holds"),
    [(11, 32, [True, True, True]), (11.1, 32.2, [False, True, True]), (10, 14, [True, False, False])],
)
def test_verdicts(ours: float, peers: float, holds: list[bool]) -> None:
    """A bench that falls short would be recorded as one that holds."""
    assert [demand.holds for demand in demands(figures([turn(ours, peers, 10)]))] == holds


def test_a_difference_is_no_parity() -> None:
    """A figure that differs in the sixth digit, or that one program lacks, would pass unseen."""
    ours, theirs = {"t": {"acc1": 0.5, "mean_recall@1": 0.1}}, {"t": {"acc1": 0.500002, "acc5": math.nan}}
    (pair,) = pair_up(ours, theirs)
    assert pair == Pair("t", "acc1", 0.5, 0.500002)
    assert not parity_record([pair])["agree"]
    assert parity_record([Pair("t", "acc1", 0.5, 0.5 + 1e-7)])["agree"]
    with pytest.raises(ValueError, match="acc5"):
        pair_up({"t": {"acc1": 0.5}}, {"t": {"acc1": 0.5, "acc5": 0.9}})


def test_without_the_peers_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who never ran make peers would get a traceback of subprocess."""
    monkeypatch.setattr(peer_clip_benchmark, "PYTHON", tmp_path / ".venv-peers" / "bin" / "python")
    assert bench_evals.main([]) == 2
    err = capsys.readouterr().err
    assert err == "pineco: needs clip-benchmark in .venv-peers; run make peers\n"


def test_the_bare_pass_does_the_same_work(
    tmp_path: Path, colour_set: Path, export_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would time other images or prompts than the evaluation has, and its ratio mean nothing."""
    cut_sets(colour_set.parent, tmp_path / "cut", Cut(images=7), ("colours",))
    options = ["--model", f"local-dir:{export_dir}", "--data", str(tmp_path / "cut"), "--tasks", "colours"]
    options += ["--batch-size", "4", "--stock-texts", "--started", str(time.time())]
    assert bare_forward.main(options) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["counts"] == {"images": 7, "texts": 6}
    assert all(found[name]["wall"] > 0 for name in ("loading", "image_tower", "short_texts", "padded_texts"))


def test_our_command_line_is_measured(tmp_path: Path, colour_set: Path, export_dir: Path) -> None:
    """The evaluation's own seconds would hold what importing takes, or nothing at all."""
    setting = Setting(
        model=f"local-dir:{export_dir}", root=colour_set.parent, tasks=("colours",), batch_size=4, threads=1
    )
    assert setting.workers == 1
    ours = bench_evals.run_ours(setting, tmp_path)
    assert 0 < ours.evaluation < ours.wall
    assert set(ours.metrics["colours"]) == {"acc1", "mean_per_class_recall"}
    with pytest.raises(InputError, match="pineco eval zeroshot ended with 2: "):
        bench_evals.run_ours(Setting(**{**vars(setting), "tasks": ("colors",)}), tmp_path)
