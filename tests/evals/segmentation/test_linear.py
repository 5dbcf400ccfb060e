"""The linear probe: what it learns, that it is the published one, and that a seed fixes it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pineco.data_pipeline.errors import InputError
from pineco.evals.batching import allocate
from pineco.evals.data.segmentation import open_segmentation
from pineco.evals.models.load import load_model
from pineco.evals.segmentation.encode import How
from pineco.evals.segmentation.linear import (
    Head,
    LinearProbe,
    evaluate_linear,
    learning_rate,
    pixel_loss,
    train_head,
    training_set,
)
from pineco.evals.segmentation.miou import metrics
from tests.support.segmentation_sets import ColourPatches, camvid, sample, small_set, write_set
from tests.support.stand_ins import as_model

FAST = LinearProbe(epochs=30, drop_at=25, learning_rate=2.0, batch_size=2, weight_decay=0, mask_size=16)
CPU = torch.device("cpu")


def drawn(images: int = 6) -> tuple[Tensor, Tensor]:
    """Features (N, 4, 4, 5) and masks (N, 12, 12) of four classes with some void."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 5, (images, 12, 12), generator=generator)
    return torch.randn(images, 4, 4, 5, generator=generator), torch.where(masks == 4, 255, masks).to(torch.uint8)


def test_classes_that_are_linear_in_the_features_are_learnt(tmp_path: Path) -> None:
    """A shift between features and masks, or a head that does not train, would look like a bad model."""
    data = open_segmentation(small_set(tmp_path / "set"))
    found = evaluate_linear(as_model(ColourPatches()), data, FAST, How(size=16), seeds=(0, 1), show={1})
    for run in found.runs:
        assert metrics(run) == {"miou": 1, "pixel_accuracy": 1}
    assert len(found.shown) == 1


def test_training_is_that_of_the_published_code() -> None:
    """Our figures could not stand beside published ones: they upsample features, and let PyTorch's StepLR decide."""
    features, masks = drawn()
    settings = LinearProbe(epochs=5, drop_at=3, batch_size=2, mask_size=12)
    found = train_head(features, masks, 4, settings, seed=3, device=CPU)

    generator = torch.Generator().manual_seed(3)
    layer = nn.Conv2d(5, 4, 1)
    layer.load_state_dict(Head(5, 4, batch_norm=False, generator=generator).layer.state_dict())
    optimizer = torch.optim.SGD(layer.parameters(), weight_decay=0.0001, momentum=0.9, lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, gamma=0.1, step_size=3)
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    for _ in range(5):
        for rows in torch.randperm(6, generator=generator).split(2):
            tokens = nn.functional.interpolate(features[rows].permute(0, 3, 1, 2), size=(12, 12), mode="bilinear")
            loss = criterion(layer(tokens), masks[rows].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    assert torch.allclose(found.layer.weight, layer.weight, atol=1e-6)
    assert found.layer.bias is not None
    assert layer.bias is not None
    assert torch.allclose(found.layer.bias, layer.bias, atol=1e-6)


def test_a_seed_fixes_the_head_and_leaves_the_program_alone() -> None:
    """A figure could not be had again, or would differ with what ran before."""
    features, masks = drawn()
    settings = LinearProbe(epochs=3, batch_size=2, batch_norm=True)
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    one = train_head(features, masks, 4, settings, 0, CPU).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(10)
    two, other = (train_head(features, masks, 4, settings, seed, CPU).state_dict() for seed in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["layer.weight"], other["layer.weight"])


def test_schedules() -> None:
    """The learning rate would fall too early, too late or not at all."""
    step = LinearProbe()
    rates = [learning_rate(step, epoch, 0, 4) for epoch in range(25)]
    assert rates == pytest.approx([0.01] * 20 + [0.001] * 5)
    cosine = LinearProbe(schedule="cosine", epochs=4)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    for number in range(12):
        assert learning_rate(cosine, number // 3, number % 3, 3) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_batch_norm_stands_before_the_layer() -> None:
    """Features of large scale, which batch norm is there for, would not train; nor would its running mean be used."""
    features, masks = drawn()
    head = train_head(1000 * features + 500, masks, 4, LinearProbe(epochs=2, batch_size=3, batch_norm=True), 0, CPU)
    assert not head.training
    assert isinstance(head.norm, nn.BatchNorm2d)
    assert head.norm.running_mean is not None
    assert head.norm.running_mean.abs().min() > 1
    assert head(1000 * features + 500).abs().max() < 1000


def test_loss_is_over_known_pixels_and_finite_without_any() -> None:
    """One batch of nothing but void would make the head NaN, and its mIoU that of class 0 everywhere."""
    scores, mask = torch.zeros(1, 4, 2, 2), torch.full((1, 8, 8), 255, dtype=torch.uint8)
    assert float(pixel_loss(scores, mask)) == 0
    mask[0, 0, :3] = 2
    assert float(pixel_loss(scores, mask)) == pytest.approx(math.log(4))
    features, masks = drawn(4)
    masks[1] = 255
    head = train_head(features, masks, 4, LinearProbe(epochs=2, batch_size=1), 0, CPU)
    assert all(torch.isfinite(parameter).all() for parameter in head.parameters())


def test_features_beyond_the_bound_lie_on_disk_and_change_nothing(tmp_path: Path) -> None:
    """A large set would end in an out-of-memory kill, or its figure would differ from that in memory."""
    data = open_segmentation(small_set(tmp_path / "set"))
    inside = training_set(as_model(ColourPatches()), data, FAST, How(size=16))
    outside = training_set(as_model(ColourPatches()), data, replace(FAST, cache_bytes=1000), How(size=16, batch_size=2))
    for a, b in zip(inside, outside, strict=True):
        assert torch.equal(a, b)
    heads = [train_head(*part, 4, replace(FAST, epochs=2), 0, CPU) for part in (inside, outside)]
    assert torch.equal(heads[0].layer.weight, heads[1].layer.weight)


def test_a_disk_that_is_full_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process would be killed by a signal at some later write."""

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert allocate((10,), bound=40).shape == (10,)
    with pytest.raises(InputError, match=r"44 bytes of features in .*: No space left on device; set TMPDIR"):
        allocate((11,), bound=40)


def test_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    """A random head would be measured."""
    void = sample(np.full((16, 16), 255, np.uint8))
    data = open_segmentation(write_set(tmp_path / "set", [void] * 2, [sample(np.zeros((16, 16), np.uint8))]))
    with pytest.raises(InputError, match="nothing can be learnt"):
        evaluate_linear(as_model(ColourPatches()), data, FAST, How(size=16))


def test_real_images() -> None:
    """On CamVid a linear layer on random patches finds sky and road; a shift or a swapped axis would take that away."""
    data = open_segmentation(camvid())
    settings = LinearProbe(epochs=4, drop_at=3, batch_size=16, learning_rate=0.1, mask_size=48, batch_norm=True)
    [run] = evaluate_linear(load_model("timm:test_vit"), data, settings, How(size=96, threads=2)).runs
    found = metrics(run)
    assert run.hits.shape == (233, 11)
    assert 0.10 < found["miou"] < 0.40
    assert found["pixel_accuracy"] > 0.45
