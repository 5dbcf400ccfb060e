"""In-context segmentation against the published protocol, restated, and against what must hold of any model."""

from __future__ import annotations

import importlib.util
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.segmentation import open_segmentation, read_examples
from pineco.evals.models.load import load_model
from pineco.evals.segmentation import incontext as incontext_segmentation
from pineco.evals.segmentation.encode import How
from pineco.evals.segmentation.incontext import (
    Bank,
    InContext,
    choose_patches,
    evaluate_incontext,
    is_seeded,
    label_patches,
    nearest,
    predictor,
    soft_labels,
)
from pineco.evals.segmentation.miou import matched_miou, metrics
from tests.support.segmentation_sets import ColourPatches, camvid, masks, sample, small_set, write_set
from tests.support.stand_ins import as_model

SETTINGS = InContext(neighbours=5)


class FixedFeatures(ColourPatches):
    """Patch features that were drawn before, looked up by the brightness of an image's first pixel."""

    width = 6

    def __init__(self, patch_size: int, features: Tensor) -> None:
        super().__init__(patch_size)
        self.features = features

    def tokens(self, images: Tensor) -> Tensor:
        return self.features[((images[:, 0, 0, 0] + 1) * 128).round().long()]


def numbered(mask: np.ndarray, number: int) -> dict[str, bytes]:
    return sample(mask, np.full((*mask.shape, 3), number, np.uint8))


def reference(train: np.ndarray, train_masks: np.ndarray, test: np.ndarray, test_masks: np.ndarray, k: int) -> list:
    """(mIoU as predicted, mIoU after matching) by open-hummingbird-eval's formulas, patch by patch, in float64.

    features: (N, h, w, D); masks: (N, S, S). Void becomes class 0 in the memory and is left out of the test.
    """
    C, h, S = 4, train.shape[1], train_masks.shape[1]
    p, memory = S // h, []
    for image, mask in zip(train, train_masks, strict=True):
        for r in range(h):
            for c in range(h):
                square = mask[r * p : (r + 1) * p, c * p : (c + 1) * p].copy()
                square[square == 255] = 0
                memory.append((image[r, c] / np.linalg.norm(image[r, c]), [np.mean(square == n) for n in range(C)]))
    keys, labels = (np.array(part, np.float64) for part in zip(*memory, strict=True))
    counts = np.zeros((C, C))
    for image, mask in zip(test, test_masks, strict=True):
        soft = np.zeros((h, h, C))
        for r in range(h):
            for c in range(h):
                cosine = keys @ (image[r, c] / np.linalg.norm(image[r, c]))
                best = np.argsort(-cosine)[:k]
                weights = np.exp(cosine[best] / 0.02 - cosine[best].max() / 0.02)
                soft[r, c] = (weights / weights.sum()) @ labels[best]
        for y in range(S):
            for x in range(S):
                if mask[y, x] != 255:
                    counts[mask[y, x], bilinear(soft, (y + 0.5) / p - 0.5, (x + 0.5) / p - 0.5).argmax()] += 1
    iou = counts / np.maximum(counts.sum(1)[:, None] + counts.sum(0)[None] - counts, 1e-8)
    return [np.diag(iou).mean(), max(np.mean([iou[n, order[n]] for n in range(C)]) for order in permutations(range(C)))]


def bilinear(grid: np.ndarray, y: float, x: float) -> np.ndarray:
    """(C,) between the four cells around (y, x), whose own centres are at whole numbers; held at the border."""
    y, x = (min(max(value, 0), len(grid) - 1) for value in (y, x))
    top, left = math.floor(y), math.floor(x)
    low, right, dy, dx = min(top + 1, len(grid) - 1), min(left + 1, len(grid) - 1), y - top, x - left
    upper = (1 - dx) * grid[top, left] + dx * grid[top, right]
    return (1 - dy) * upper + dy * ((1 - dx) * grid[low, left] + dx * grid[low, right])


def test_figures_are_those_of_the_published_code(tmp_path: Path) -> None:
    """Our figures could not stand beside published ones: same features, same mIoU within 1e-4."""
    truth = np.array([*masks(8, seed=4), *masks(6, seed=5)])
    features = torch.randn(14, 4, 4, 6, generator=torch.Generator().manual_seed(6))
    common = torch.from_numpy(truth[:, ::4, ::4].astype(np.int64) % 5)  # what patches of a class share
    features += 1.2 * torch.randn(5, 6, generator=torch.Generator().manual_seed(7))[common]
    samples = [numbered(mask, number) for number, mask in enumerate(truth)]
    data = open_segmentation(write_set(tmp_path / "set", samples[:8], samples[8:]))
    encoder = FixedFeatures(4, features)
    found = evaluate_incontext(as_model(encoder), data, SETTINGS, How(size=16, batch_size=3)).runs[0]
    drawn = features.double().numpy()
    plain, matched = reference(drawn[:8], truth[:8], drawn[8:], truth[8:], k=5)
    assert 0.3 < plain < 0.9
    assert metrics(found)["miou"] == pytest.approx(plain, abs=1e-4)
    assert matched_miou(found) == pytest.approx(matched, abs=1e-4)


def test_features_that_are_the_labels_are_right_everywhere(tmp_path: Path) -> None:
    """Any shift between patches and masks would cost every model some points, and nobody would see it."""
    data = open_segmentation(small_set(tmp_path / "set"))
    found = evaluate_incontext(as_model(ColourPatches()), data, SETTINGS, How(size=16), show={0, 3})
    assert metrics(found.runs[0]) == {"miou": 1, "pixel_accuracy": 1}
    expected = [
        (e, m) for n, (e, m) in enumerate(zip(read_examples(data.test), masks(5, seed=2), strict=True)) if n % 3 == 0
    ]
    for (example, prediction), (other, mask) in zip(found.shown, expected, strict=True):
        assert example == other
        assert np.array_equal(np.where(mask == 255, 255, prediction), mask)


def test_neither_batches_nor_threads_nor_chunks_change_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A figure would depend on the machine that it was taken on."""
    data = open_segmentation(small_set(tmp_path / "set"))
    few = InContext(neighbours=5, memory_size=50)
    runs = []
    for batch_size, threads, chunk in ((1, 1, 1 << 24), (3, 2, 64), (32, 3, 1000)):
        monkeypatch.setattr(incontext_segmentation, "CHUNK", chunk)
        how = How(size=16, batch_size=batch_size, threads=threads)
        runs.append(evaluate_incontext(as_model(ColourPatches(2)), data, few, how, seeds=(0, 1)).runs)
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert np.array_equal(a.total, b.total)
            assert np.array_equal(a.predicted, b.predicted)


def test_soft_labels_are_shares_of_pixels_and_void_is_class_0() -> None:
    """The published code counts void as class 0 in the memory; elsewhere the bank would hold other labels."""
    mask = torch.tensor([[0, 1, 2, 2], [255, 1, 2, 2], [3, 3, 255, 255], [3, 1, 255, 255]], dtype=torch.uint8)
    found = soft_labels(mask[None], 2, 4)
    expected = [[[0.5, 0.5, 0, 0], [0, 0, 1, 0]], [[0, 0.25, 0, 0.75], [1, 0, 0, 0]]]
    assert found[0].tolist() == expected


def test_the_memory_prefers_patches_of_rare_classes() -> None:
    """A small memory would hold nothing but road and sky."""
    labels = torch.zeros(100, 3)
    labels[:90, 0] = labels[90:97, 1] = 1
    labels[97:, 2] = 1
    rare = [int((choose_patches(labels, 20, seed, 0) >= 90).sum()) for seed in range(30)]
    assert np.mean(rare) > 8  # of 20; 2 by chance
    assert all(len(set(choose_patches(labels, 20, seed, 0).tolist())) == 20 for seed in range(5))


def test_the_choice_is_a_function_of_seed_and_image() -> None:
    """Two runs of one seed would differ, or two images, or two seeds, would draw alike."""
    labels = torch.eye(4).repeat(16, 1)
    first = choose_patches(labels, 8, 1, 5)
    assert torch.equal(first, choose_patches(labels, 8, 1, 5))
    assert not torch.equal(first, choose_patches(labels, 8, 2, 5))
    assert not torch.equal(first, choose_patches(labels, 8, 1, 6))
    assert torch.equal(choose_patches(labels, 64, 1, 5), torch.arange(64))


def test_every_image_gives_the_same_number_within_the_memory() -> None:
    """The memory would grow past its bound, or the first images would fill it."""
    settings = InContext(memory_size=1000)
    assert settings.per_image(7, 256) == 142
    assert settings.per_image(3, 256) == 256
    assert is_seeded(settings, 7, 256)
    assert not is_seeded(settings, 3, 256)
    with pytest.raises(InputError, match="less than one patch for each of 1001 training images"):
        settings.per_image(1001, 256)


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000, 1 << 24])
def test_search_in_chunks_is_exact(chunk: int) -> None:
    """A neighbour at the seam of two chunks would be missed, or a row would be off."""
    generator = torch.Generator().manual_seed(1)
    bank, queries = torch.randn(83, 5, generator=generator), torch.randn(9, 5, generator=generator)
    expected = (queries @ bank.T).topk(10, dim=1)
    values, rows = nearest(bank, queries, 10, chunk=chunk)
    assert torch.equal(rows, expected.indices)
    assert torch.allclose(values, expected.values, atol=1e-6)


def test_search_holds_no_more_than_its_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large bank would need queries x bank numbers at once: 40 GB for one image of 1,024 patches and 10 M."""
    largest = 0
    original = torch.Tensor.__matmul__

    def watched(a: Tensor, b: Tensor) -> Tensor:
        nonlocal largest
        product = original(a, b)
        largest = max(largest, product.numel())
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    nearest(torch.randn(1000, 4), torch.randn(8, 4), 3, chunk=256)
    assert largest == 256


def test_a_memory_smaller_than_the_neighbours_is_used_whole() -> None:
    """A few labelled images, which is what in-context learning is for, would be an error."""
    bank = Bank(torch.eye(3), torch.eye(3))
    soft = label_patches(bank, torch.eye(3) * 5, lambda q, k: nearest(bank.features, q, k), InContext(neighbours=30))
    assert torch.allclose(soft, torch.eye(3), atol=1e-6)


def test_faiss_is_asked_for_by_name_only() -> None:
    """Figures would depend on what happens to be installed; without it the message would be a traceback."""
    if importlib.util.find_spec("faiss") is None:
        with pytest.raises(InputError, match="pip install faiss-cpu, or use --search torch"):
            predictor(Bank(torch.eye(3), torch.eye(3)), InContext(search="faiss"), 4, torch.device("cpu"))
        return
    generator = torch.Generator().manual_seed(2)
    bank = Bank(torch.nn.functional.normalize(torch.randn(200, 8, generator=generator)), torch.eye(4).repeat(50, 1))
    features = torch.randn(3, 4, 4, 8, generator=generator)
    found = [predictor(bank, InContext(search=name), 16, torch.device("cpu"))(features) for name in ("torch", "faiss")]
    assert torch.equal(*found)


def test_bad_masks_are_counted_and_no_figure_is_given(tmp_path: Path) -> None:
    """A figure would come out over the images that happened to be good."""
    good = masks(6)
    wrong = [
        sample(np.where(mask == 1, 9, mask).astype(np.uint8)) if n in (1, 4) else sample(mask)
        for n, mask in enumerate(good)
    ]
    data = open_segmentation(write_set(tmp_path / "set", [sample(mask) for mask in good], wrong))
    encoder = ColourPatches()
    with pytest.raises(
        InputError, match=r"2 of 6 samples cannot be used: .*test0001: the mask has .* pixels of 9"
    ) as caught:
        evaluate_incontext(as_model(encoder), data, SETTINGS, How(size=16, batch_size=2))
    assert "test0004" in str(caught.value)
    assert encoder.batches == [2, 2, 2]  # of the training images: nothing is encoded for a figure that will not be


def test_real_images() -> None:
    """On CamVid, patches of random weights tell sky from road: a shift or a swapped axis would take that away."""
    data = open_segmentation(camvid())
    encoder = load_model("timm:test_vit")
    [run] = evaluate_incontext(encoder, data, InContext(memory_size=4000), How(size=96, threads=2)).runs
    found = metrics(run)
    assert run.hits.shape == (233, 11)
    assert 0.10 < found["miou"] < 0.30
    assert found["pixel_accuracy"] > 0.45
