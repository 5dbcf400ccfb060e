"""The suite from folder to report, with a model that is right by construction and with a real one."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.errors import InputError
from evals import suite
from evals.encoder import load_encoder
from evals.suite import _ahead, evaluate
from evals.tasks import Task


@pytest.fixture
def pairs(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> Path:
    texts = {"red": b"red\na red thing", "green": b"green", "blue": b"blue\nvery blue\nthe blue one"}
    samples = [{"png": picture(colour, fmt="PNG"), "txt": text} for colour, text in texts.items()]
    return write_folder("pairs", samples, kind="retrieval", classnames=None, templates=None)


def test_a_right_model_is_right(colour_set: Path, pairs: Path, colour_encoder) -> None:
    """Labels, prompts or captions would be out of step with images."""
    report = evaluate(colour_encoder, colour_set.parent, "colours,pairs", batch_size=4, workers=2, step=7)
    classification, retrieval = report.results
    assert classification.metrics == {"acc1": 1.0, "mean_per_class_recall": 1.0}
    assert classification.value_of_chance == pytest.approx(1 / 3)
    assert (classification.samples, classification.full_size) == (9, None)
    assert retrieval.value == retrieval.metrics["mean_recall@1"] == 1.0
    assert retrieval.chance["text_retrieval_recall@1"] == pytest.approx((2 + 1 + 3) / 6 / 3)
    assert (report.model, report.identity, report.step, report.samples_seen) == ("colours", "none", 7, None)
    assert report.versions["torch"] == torch.__version__.split("+")[0]


def test_batches_are_full_and_texts_are_encoded_once(colour_set: Path, colour_encoder) -> None:
    """Evaluation would be slow for no reason, or the memory limit that batch_size sets would be passed."""
    (colour_set / "zeroshot_classification_templates.txt").write_text("a {c}\na {c}\nthe {c}")
    done: list[tuple[str, int]] = []

    def progress(task: Task, images: int) -> None:
        done.append((task.key, images))

    evaluate(colour_encoder, colour_set.parent, "colours", batch_size=4, progress=progress)
    assert colour_encoder.image_batches == [4, 4, 1]
    assert sorted(colour_encoder.texts) == sorted(f"{a} {c}" for a in ("a", "the") for c in ("red", "green", "blue"))
    assert done == [("colours", 4), ("colours", 8), ("colours", 9)]


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
    encoder = load_encoder(str(export_dir))
    reports = [
        evaluate(encoder, noise_sets, ["noise", "noise_pairs"], batch_size=batch_size, workers=workers)
        for batch_size, workers in ((1, 1), (7, 3), (256, 2))
    ]
    figures = [[result.metrics for result in report.results] for report in reports]
    assert figures[0] == figures[1] == figures[2]
    assert 0 < figures[0][0]["acc1"] < 1  # else the test would show nothing
    assert 0 < figures[0][1]["mean_recall@10"] < 1


def test_the_last_folder_is_checked_before_the_first_image(colour_set: Path, colour_encoder) -> None:
    """Hours of measuring would be lost to a missing folder."""
    with pytest.raises(InputError, match="no folder for mnist"):
        evaluate(colour_encoder, colour_set.parent, "colours,mnist")
    assert colour_encoder.texts == []


def test_a_bad_image_ends_the_run_by_name(
    write_folder: Callable[..., Path], picture: Callable[..., bytes], colour_encoder
) -> None:
    """Damaged data would be skipped, and the figure be of other images than the benchmark's."""
    good = {"jpg": picture(), "cls": b"0"}
    root = write_folder("bad", [good, good, {"jpg": picture()[:40], "cls": b"0"}, good])
    with pytest.raises(InputError, match=r"0\.tar, s0000002: damaged image"):
        evaluate(colour_encoder, root.parent, "bad", batch_size=2)


def test_a_diverged_model_is_refused(colour_set: Path, colour_encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN features would be reported as a perfect score."""
    monkeypatch.setattr(colour_encoder, "encode_images", lambda images: torch.full((len(images), 3), torch.nan))
    with pytest.raises(InputError, match="diverged"):
        evaluate(colour_encoder, colour_set.parent, "colours")


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_impossible_settings_are_refused(options: dict[str, int], colour_set: Path, colour_encoder) -> None:
    """The run would hang or end in a traceback."""
    with pytest.raises(InputError, match="at least 1"):
        evaluate(colour_encoder, colour_set.parent, "colours", **options)


def test_images_are_not_read_far_ahead() -> None:
    """A large benchmark would be held in memory as a whole."""
    started: list[int] = []

    def source():
        for number in range(100):
            started.append(number)
            yield number

    results = _ahead(lambda n: n * n, source(), threads=2, ahead=5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(started) <= 5 + 3
    results.close()


def test_reports_are_frozen(colour_set: Path, colour_encoder) -> None:
    """A figure could be changed after it was measured."""
    report = evaluate(colour_encoder, colour_set.parent, "colours")
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.results[0].samples = 0


def test_rows_come_back_in_order_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features would be lost, doubled or shifted against their labels where a block of the buffer ends."""
    monkeypatch.setattr(suite._Rows, "BLOCK", 5)
    for sizes in ([3, 3, 3], [5, 5], [1], [12, 2], [4, 0, 1]):
        rows = suite._Rows()
        every = torch.arange(float(sum(sizes) * 2)).reshape(-1, 2)
        for part in every.split(sizes):
            rows.append(part)
        assert torch.equal(rows.tensor(), every)
