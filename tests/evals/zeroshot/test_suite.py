"""The suite from folder to report, with a model that is right by construction and with a real one."""

import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pineco.data_pipeline.errors import InputError
from pineco.evals.batching import Rows, ahead
from pineco.evals.data.samples import Example, digest
from pineco.evals.models.load import load_model
from pineco.evals.ranks import Ranks
from pineco.evals.report.write import read_reports, terminal_table, write_report, write_run_report
from pineco.evals.zeroshot import texts
from pineco.evals.zeroshot.compare import compare
from pineco.evals.zeroshot.parts import file_name
from pineco.evals.zeroshot.suite import How
from pineco.pretrain.distributed import RankInfo
from tests.support.coloured_sets import COLOURS, ColourEncoder
from tests.support.ranks import run_ranks
from tests.support.stand_ins import evaluate
from tests.support.terminal import printed


@pytest.fixture
def pairs(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> Path:
    texts = {"red": b"red\na red thing", "green": b"green", "blue": b"blue\nvery blue\nthe blue one"}
    samples = [{"png": picture(colour, fmt="PNG"), "txt": text} for colour, text in texts.items()]
    return write_folder("pairs", samples, kind="retrieval", classnames=None, templates=None)


def test_a_right_model_is_right(colour_set: Path, pairs: Path, colour_encoder: ColourEncoder) -> None:
    """Labels, prompts or captions would be out of step with images."""
    report = evaluate(colour_encoder, colour_set.parent, "colours,pairs", How(batch_size=4, workers=2))
    classification, retrieval = report.results
    assert classification.metrics == {"acc1": 1.0, "mean_per_class_recall": 1.0}
    assert classification.value_of_chance == pytest.approx(1 / 3)
    assert (classification.samples, classification.full_size) == (9, None)
    assert retrieval.value == retrieval.metrics["mean_recall@1"] == 1.0
    assert retrieval.chance["text_retrieval_recall@1"] == pytest.approx((2 + 1 + 3) / 6 / 3)
    assert (report.model, report.identity, report.selection) == ("colours", "none", "colours,pairs")
    assert report.versions["torch"] == torch.__version__.split("+")[0]


def test_batches_are_full_and_texts_are_encoded_once(colour_set: Path, colour_encoder: ColourEncoder) -> None:
    """Evaluation would be slow for no reason, or the memory limit that batch_size sets would be passed."""
    (colour_set / "zeroshot_classification_templates.txt").write_text("a {c}\na {c}\nthe {c}")
    done: list[tuple[str, int, int | None]] = []
    evaluate(colour_encoder, colour_set.parent, "colours", How(batch_size=4), progress=lambda *what: done.append(what))
    assert colour_encoder.image_batches == [4, 4, 1]
    assert sorted(colour_encoder.texts) == sorted(f"{a} {c}" for a in ("a", "the") for c in ("red", "green", "blue"))
    prompts = [("prompts", 4, 6), ("prompts", 6, 6)]
    assert done == [*prompts, *(("colours", images, None) for images in (4, 8, 9))]


@pytest.fixture
def noise_sets(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> Path:
    """Images and texts that a model with random weights tells apart by chance only."""
    rng = np.random.default_rng(1)
    samples = []
    for number in range(30):
        buffer = io.BytesIO()
        colour = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colour).resize((32, 32)).save(buffer, "JPEG")
        words = " ".join(str(n) for n in rng.integers(0, 1000, 5))
        samples.append({"jpg": buffer.getvalue(), "cls": str(number % 6).encode(), "txt": words.encode()})
    names = "\n".join(f"{n} birds" for n in (3, 50, 7, 11, 999, 2))
    write_folder("noise", samples, classnames=names, per_shard=20)
    return write_folder("noise_pairs", samples, kind="retrieval", per_shard=7).parent


def test_figures_do_not_depend_on_batches_or_threads(noise_sets: Path, export_dir: Path) -> None:
    """The same checkpoint would score differently on a smaller GPU or a busier machine."""
    encoder = load_model(str(export_dir))
    reports = [
        evaluate(encoder, noise_sets, ["noise", "noise_pairs"], How(batch_size=batch_size, workers=workers))
        for batch_size, workers in ((1, 1), (7, 3), (256, 2))
    ]
    figures = [[result.metrics for result in report.results] for report in reports]
    digests = {tuple(result.data for result in report.results) for report in reports}
    assert len(digests) == 1
    assert figures[0] == figures[1] == figures[2]
    assert 0 < figures[0][0]["acc1"] < 1  # else the test would show nothing
    assert 0 < figures[0][1]["mean_recall@10"] < 1


def test_the_last_folder_is_checked_before_the_first_image(colour_set: Path, colour_encoder: ColourEncoder) -> None:
    """Hours of measuring would be lost to a missing folder."""
    with pytest.raises(InputError, match="no folder for mnist"):
        evaluate(colour_encoder, colour_set.parent, "colours,mnist")
    assert colour_encoder.texts == []


def test_a_bad_image_ends_the_run_by_name(
    write_folder: Callable[..., Path], picture: Callable[..., bytes], colour_encoder: ColourEncoder
) -> None:
    """Damaged data would be skipped, and the figure be of other images than the benchmark's."""
    good = {"jpg": picture(), "cls": b"0"}
    root = write_folder("bad", [good, good, {"jpg": picture()[:40], "cls": b"0"}, good])
    with pytest.raises(InputError, match=r"bad: 1 of 4 samples cannot be used: .*0\.tar, s0000002: damaged image"):
        evaluate(colour_encoder, root.parent, "bad", How(batch_size=2))


def test_a_diverged_model_is_refused(
    colour_set: Path, colour_encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN features would be reported as a perfect score."""
    monkeypatch.setattr(colour_encoder, "embed", lambda images: torch.full((len(images), 3), torch.nan))
    with pytest.raises(InputError, match="diverged"):
        evaluate(colour_encoder, colour_set.parent, "colours")


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_impossible_settings_are_refused(
    options: dict[str, Any], colour_set: Path, colour_encoder: ColourEncoder
) -> None:
    """The run would hang or end in a traceback."""
    with pytest.raises(InputError, match="at least 1"):
        evaluate(colour_encoder, colour_set.parent, "colours", How(**options))


def test_images_are_not_read_far_ahead() -> None:
    """A large benchmark would be held in memory as a whole."""
    started: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            started.append(number)
            yield number

    results = ahead(lambda n: n * n, source(), threads=2, window=5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(started) <= 5 + 3
    assert isinstance(results, Generator)
    results.close()


def test_reports_are_frozen(colour_set: Path, colour_encoder: ColourEncoder) -> None:
    """A figure could be changed after it was measured."""
    report = evaluate(colour_encoder, colour_set.parent, "colours")
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.results[0].samples = 0  # type: ignore[misc] # it is read-only: the test


def test_rows_come_back_in_order_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features would be lost, doubled or shifted against their labels where a block of the buffer ends."""
    monkeypatch.setattr(Rows, "BLOCK", 5)
    for sizes in ([3, 3, 3], [5, 5], [1], [12, 2], [4, 0, 1]):
        rows = Rows()
        every = torch.arange(float(sum(sizes) * 2)).reshape(-1, 2)
        for part in every.split(sizes):
            rows.append(part)
        assert torch.equal(rows.tensor(), every)


def _measure_as(ranks: RankInfo, export: Path, data: Path, parts: Path | None) -> dict[str, object]:
    how = How(batch_size=4, workers=1, ranks=Ranks(ranks.rank, ranks.world), parts=parts)
    report = evaluate(load_model(str(export)), data, "noise,noise_pairs", how)
    return {result.task: (result.metrics, result.intervals, result.data) for result in report.results}


def test_ranks_share_the_work_exactly(noise_sets: Path, export_dir: Path, tmp_path: Path) -> None:
    """A figure would depend on how many GPUs an evaluation had."""
    one, three = (run_ranks(_measure_as, world, export_dir, noise_sets, None) for world in (1, 3))
    assert three == one * 3


def _measure_bad(ranks: RankInfo, export: Path, data: Path) -> str:
    how = How(batch_size=2, workers=1, ranks=Ranks(ranks.rank, ranks.world))
    try:
        evaluate(load_model(str(export)), data, "bad", how)
    except InputError as error:
        return str(error)
    return "measured"


def test_every_bad_sample_is_counted_once_by_all_ranks(
    write_folder: Callable[..., Path], picture: Callable[..., bytes], export_dir: Path
) -> None:
    """Ranks would wait for one that had given up, or count what all of them read as often as there are ranks."""
    good = {"jpg": picture(), "cls": b"0"}
    unreadable, mislabelled = {"jpg": picture()[:40], "cls": b"0"}, {"jpg": picture(), "cls": b"7"}
    root = write_folder("bad", [good, unreadable, good, good, unreadable, mislabelled, good, good])
    said = run_ranks(_measure_bad, 2, export_dir, root.parent)
    assert said[0] == said[1]
    assert said[0].startswith("bad: 3 of 8 samples cannot be used: ")
    assert "label '7' is no class number" in said[0]


def test_one_bad_task_does_not_cost_the_others(
    colour_set: Path,
    pairs: Path,
    write_folder: Callable[..., Path],
    picture: Callable[..., bytes],
    colour_encoder: ColourEncoder,
) -> None:
    """One damaged image would cost an evaluation of 31 benchmarks."""
    write_folder("bad", [{"jpg": picture()[:40], "cls": b"0"}])
    report = evaluate(colour_encoder, colour_set.parent, "colours,bad,pairs")
    assert [result.task for result in report.results] == ["colours", "pairs"]
    assert list(report.failed) == ["bad"]
    assert report.failed["bad"].startswith("1 of 1 samples"), "the task is named twice where this is printed"


class Killed(BaseException):
    pass


def test_an_evaluation_that_was_cut_off_goes_on(
    colour_set: Path, pairs: Path, colour_encoder: ColourEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of an evaluation would be done again; or its figures differ from those of one that was not cut off."""
    tasks, whole = "colours,pairs", tmp_path / "whole"
    expected = evaluate(colour_encoder, colour_set.parent, tasks, How(batch_size=2, parts=whole))
    for point in range(1, 15):  # every call of the model, in turn
        encoder, parts = type(colour_encoder)(), tmp_path / f"cut_{point}"
        embed, encode_texts, calls = encoder.embed, encoder.encode_texts, 0

        def dies(method: Callable[..., torch.Tensor], argument: object, point: int = point) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == point:
                raise Killed
            return method(argument)

        monkeypatch.setattr(encoder, "embed", partial(dies, embed))
        monkeypatch.setattr(encoder, "encode_texts", partial(dies, encode_texts))
        try:
            evaluate(encoder, colour_set.parent, tasks, How(batch_size=2, parts=parts))
            assert point == 14, "the evaluation has 13 calls"
        except Killed:
            pass
        kept = {path.stem: path.stat().st_mtime_ns for path in parts.glob("*.json")}
        again = type(colour_encoder)()
        report = evaluate(again, colour_set.parent, tasks, How(batch_size=2, parts=parts))
        assert [r.metrics for r in report.results] == [r.metrics for r in expected.results]
        assert {path: (parts / f"{path}.json").stat().st_mtime_ns for path in kept} == kept, "done twice"
        if "colours" in kept:
            assert len(again.image_batches) <= 2, "images of a finished task were encoded again"
    assert again.image_batches == []
    assert again.texts == []


def test_prompts_that_were_encoded_before_a_kill_are_not_encoded_again(
    write_folder: Callable[..., Path],
    picture: Callable[..., bytes],
    colour_encoder: ColourEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kill in the last of 98,400 prompts would cost the minutes of all of them."""
    monkeypatch.setattr(texts, "CHUNK", 5)  # of batches of 2: chunks of 4, 4 and 2 prompts
    names = ["red", "green", "blue", "green x", "blue xx"]
    samples = [{"jpg": picture(), "cls": b"3"}]
    data = write_folder("many", samples, classnames="\n".join(names)).parent
    expected = evaluate(type(colour_encoder)(), data, "many", How(batch_size=2))
    parts, encode, calls = tmp_path / "parts", colour_encoder.encode_texts, 0
    how = How(batch_size=2, parts=parts)

    def dies(batch: list[str]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:  # in the middle of the second chunk
            raise Killed
        return encode(batch)

    monkeypatch.setattr(colour_encoder, "encode_texts", dies)
    with pytest.raises(Killed):
        evaluate(colour_encoder, data, "many", how)
    again = type(colour_encoder)()
    report = evaluate(again, data, "many", how)
    assert len(again.texts) == 10 - 4
    assert not set(again.texts) & set(colour_encoder.texts[:4])
    assert [r.metrics for r in report.results] == [r.metrics for r in expected.results]
    assert len(list((parts / "texts").iterdir())) == 1, "chunks stay though the class weights are there"
    (parts / "many.json").unlink()
    again.identity, again.texts = "other weights", []
    evaluate(again, data, "many", how)
    assert len(again.texts) == 10


def test_another_model_or_other_data_is_measured_again(
    colour_set: Path, colour_encoder: ColourEncoder, write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A report would show the figures of the checkpoint before, or of the data before it was mended."""
    parts = tmp_path / "parts"
    how = How(parts=parts)

    def measured() -> bool:
        colour_encoder.image_batches.clear()
        evaluate(colour_encoder, colour_set.parent, "colours", how)
        return bool(colour_encoder.image_batches)

    assert measured()
    assert not measured()
    colour_encoder.identity = "other weights"
    assert measured()
    (colour_set / "zeroshot_classification_templates.txt").write_text("one {c}")
    assert measured()
    shard = colour_set / "test" / "0.tar"
    os.utime(shard, ns=(1, 1))
    assert measured()
    outcomes = parts / "colours.safetensors"
    outcomes.write_bytes(outcomes.read_bytes()[:-1] + b"\xff")
    assert measured(), "damaged outcomes were taken for good"
    assert not measured()


def test_text_embeddings_are_kept(colour_set: Path, colour_encoder: ColourEncoder, tmp_path: Path) -> None:
    """98,400 prompts would be encoded again for every start; or those of another model be used."""
    parts = tmp_path / "parts"
    how = How(parts=parts)
    evaluate(colour_encoder, colour_set.parent, "colours", how)
    (parts / "colours.json").unlink()
    colour_encoder.texts.clear()
    evaluate(colour_encoder, colour_set.parent, "colours", how)
    assert colour_encoder.texts == []
    (parts / "colours.json").unlink()
    colour_encoder.identity = "other weights"
    evaluate(colour_encoder, colour_set.parent, "colours", how)
    assert len(colour_encoder.texts) == 6


def test_sets_that_share_prompts_encode_them_once(
    colour_set: Path, write_folder: Callable[..., Path], picture: Callable[..., bytes], colour_encoder: ColourEncoder
) -> None:
    """The ImageNet family would cost 306,400 prompts instead of 98,400."""
    write_folder("subset", [{"jpg": picture("green"), "cls": b"1"}], classnames="blue\ngreen")
    report = evaluate(colour_encoder, colour_set.parent, "colours,subset")
    assert [result.value for result in report.results] == [1.0, 1.0]
    assert len(colour_encoder.texts) == 6


def test_several_labels_an_image(
    write_folder: Callable[..., Path], picture: Callable[..., bytes], colour_encoder: ColourEncoder
) -> None:
    """Labels of a multilabel set would be out of step with its scores."""

    def labels(*present: int) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.isin(np.arange(3), present).astype(np.int64))
        return buffer.getvalue()

    samples = [{"jpg": picture(colour), "npy": labels(row)} for row, colour in enumerate(("red", "green", "blue"))]
    root = write_folder("many", [*samples, {"jpg": picture("red"), "npy": labels(0, 1)}], kind="multilabel")
    report = evaluate(colour_encoder, root.parent, "many")
    assert set(report.results[0].metrics) == {"mean_average_precision"}
    assert 0.8 < report.results[0].value <= 1.0
    assert report.results[0].value_of_chance < 0.7


def test_what_is_missing_is_named(colour_set: Path, colour_encoder: ColourEncoder) -> None:
    """An average over some of the benchmarks would look like one over all."""
    report = evaluate(colour_encoder, colour_set.parent, "colours,mnist", How(allow_missing=True))
    assert report.missing == ("mnist",)
    assert [result.task for result in report.results] == ["colours"]


def _data(encoder: ColourEncoder, root: Path) -> str:
    return evaluate(encoder, root.parent, root.name).results[0].data


def test_the_digest_is_of_the_images_and_their_order(
    write_folder: Callable[..., Path], picture: Callable[..., bytes], colour_encoder: ColourEncoder
) -> None:
    """Models would be paired on different images, or be refused because a set was copied or cut into other shards."""
    first, second, third = (picture(colour) for colour in COLOURS)

    def of(name: str, *images: bytes, labels: Sequence[int] = (0, 0, 1), per_shard: int = 4) -> str:
        samples = [{"jpg": image, "cls": b"%d" % label} for image, label in zip(images, labels, strict=True)]
        return _data(colour_encoder, write_folder(name, samples, per_shard=per_shard))

    expected = of("a", first, second, third)
    assert re.fullmatch("[0-9a-f]{64}", expected)
    assert of("copied", first, second, third, per_shard=1) == expected
    others = [
        of("swapped", second, first, third),  # two images of one label: the labels tell nothing
        of("other", first, picture("blue", size=(9, 9)), third),
        of("relabelled", first, second, third, labels=(0, 0, 2)),
    ]
    assert len({expected, *others}) == 4
    one = Example("0.tar, s0", first, label=0, number=0)
    assert digest(replace(one, number=1)) != digest(one), "outcomes are paired by place"
    pair = {"jpg": first, "txt": b"red"}
    sets = {"said": pair, "said_more": {**pair, "txt": b"a red"}}
    written = [write_folder(name, [sample], kind="retrieval") for name, sample in sets.items()]
    assert len({_data(colour_encoder, root) for root in written}) == 2


def test_models_measured_on_different_images_are_not_paired(
    write_folder: Callable[..., Path], picture: Callable[..., bytes], colour_encoder: ColourEncoder, tmp_path: Path
) -> None:
    """Two folders of one name, labelled in turn, would pass for the same images."""
    reports = {}
    for name, colours in (("a", ("red", "green")), ("b", ("blue", "red"))):
        samples = [{"jpg": picture(colour), "cls": b"%d" % label} for label, colour in enumerate(colours)]
        root = write_folder(f"{name}/own", samples)
        parts = tmp_path / f"parts_{name}"
        reports[name] = (evaluate(colour_encoder, root.parent, "own", How(parts=parts)), parts)
    with pytest.raises(InputError, match="own, a and b: they were measured on different images"):
        compare(reports)


def test_a_part_without_a_digest_is_measured_again(
    colour_set: Path, colour_encoder: ColourEncoder, tmp_path: Path
) -> None:
    """An evaluation that an older version began could never be checked against another."""
    parts = tmp_path / "parts"
    how = How(parts=parts)
    evaluate(colour_encoder, colour_set.parent, "colours", how)
    kept = parts / "colours.json"
    content = json.loads(kept.read_text())
    del content["result"]["data"], content["result"]["notes"]
    kept.write_text(json.dumps(content))
    assert len(evaluate(colour_encoder, colour_set.parent, "colours", how).results[0].data) == 64


def test_names_that_no_image_has_are_named(colour_set: Path, colour_encoder: ColourEncoder, tmp_path: Path) -> None:
    """A stray line in classnames.txt would shift all names behind it, and the figure look like a bad model."""
    assert evaluate(colour_encoder, colour_set.parent, "colours").results[0].notes == ()
    (colour_set / "classnames.txt").write_text("red\ngreen\nblue\n<b>stray\n" + "\n".join("pqrstu"))
    report = evaluate(colour_encoder, colour_set.parent, "colours")
    note = "colours: 7 of 10 classes have no image: <b>stray, p, q, r, s and 2 more"
    assert report.notes == (note,)
    markdown = write_report(tmp_path / "r.json", report)
    assert note in read_reports(tmp_path / "r.json")[0].notes
    assert note.replace("<", "&lt;") in markdown.read_text()
    assert note.replace("<", "&lt;").replace(">", "&gt;") in markdown.with_suffix(".html").read_text()
    run = write_run_report(tmp_path / "run", [report], title="t", details={})
    assert all("7 of 10 classes" in path.read_text() for path in (run, run.with_suffix(".html")))
    assert "7 of 10 classes have no image" in printed(terminal_table(report), width=120)


def test_names_of_files() -> None:
    """A key with a slash would end in a folder of its own, where no comparison looks."""
    assert file_name("vtab/dtd") == "vtab-dtd"
