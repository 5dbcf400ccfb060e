"""Perceptual initialisation: the image tower alone, or with captions both towers and the logit scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pineco.data_pipeline.batches import CaptionedTripletBatch, TripletBatch
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.engine import build_engine
from pineco.pretrain.losses import cosine_distance, prompt_contrastive_loss, triplet_hinge, two_afc
from pineco.pretrain.models.clip import build_clip
from pineco.pretrain.objectives.clip import Clip
from pineco.pretrain.objectives.perceptual_init import PerceptualInit
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from tests.support.ranks import TINY_CLIP, run_ranks

BATCH = 8
CAPTIONS = "objective.caption_weight=0.5"


def _recipe(*overrides: str) -> Recipe:
    fixed = [f"model={TINY_CLIP}", f"data.batch_size={BATCH}", "data.lanes=4", "engine.precision=fp32"]
    return load_recipe("pi_toy", [*fixed, "engine.kind=local", *overrides])


def _batch(step: int = 0, ranks: RankInfo | None = None) -> CaptionedTripletBatch:
    """This rank's rows; prompts are those of three texts."""
    random = torch.Generator().manual_seed(step)
    sides = [torch.randint(0, 256, (BATCH, 3, 32, 32), generator=random, dtype=torch.uint8) for _ in range(3)]
    texts = torch.randint(1, 49407, (3, 32), generator=random)
    tokens = texts[torch.randint(0, 3, (BATCH,), generator=random)]
    whole = (*sides, torch.rand(BATCH, generator=random), torch.arange(BATCH), tokens)
    ranks = ranks or RankInfo()
    return CaptionedTripletBatch(*(tensor.chunk(ranks.world)[ranks.rank] for tensor in whole))


def _plain(batch: CaptionedTripletBatch) -> TripletBatch:
    return TripletBatch(batch.reference, batch.left, batch.right, batch.right_vote, batch.samples)


def _features(model: Any, objective: PerceptualInit, batch: TripletBatch) -> tuple[Tensor, ...]:
    images = torch.cat((batch.reference, batch.left, batch.right))
    return model.encode_image(objective.normalise(images)).chunk(3)


def _hinge(objective: PerceptualInit, batch: TripletBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, score, and the references' features, restated."""
    reference, left, right = _features(objective.model, objective, batch)
    distances = cosine_distance(reference, left), cosine_distance(reference, right)
    return triplet_hinge(*distances, batch.right_vote, 0.05), two_afc(*distances, batch.right_vote), reference


@pytest.mark.parametrize("batch", [_plain(_batch()), _batch()], ids=["plain", "captioned"])
def test_without_captions_it_is_what_it_was(batch: TripletBatch) -> None:
    """Published runs and checkpoints of perceptual initialisation would change: to the last bit, and by name."""
    objective = PerceptualInit(_recipe(), RankInfo())
    output, (loss, score, _) = objective(batch), _hinge(objective, batch)
    assert float(output.loss.item()).hex() == float(loss.item()).hex()
    assert {name: value.item() for name, value in output.metrics.items()} == {"two_afc": score.item()}
    start = build_clip(TINY_CLIP, 42).state_dict()
    assert list(objective.state_dict()) == [f"model.{name}" for name in start]
    assert all(torch.equal(objective.model.state_dict()[name], tensor) for name, tensor in start.items())
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in objective.named_parameters() if name.startswith("model.visual.")}
    assert objective.bounds() == []


def test_with_captions_the_loss_is_the_sum() -> None:
    """The recipe's weight would mean something else, or the text be scored against images that are no references."""
    objective, batch = PerceptualInit(_recipe(CAPTIONS), RankInfo()), _batch()
    output, (loss, score, reference) = objective(batch), _hinge(objective, batch)
    text = objective.model.encode_text(batch.tokens, normalize=True)
    scale = objective.model.logit_scale.exp().squeeze()
    captions = prompt_contrastive_loss(F.normalize(reference, dim=1), text, batch.tokens, scale, RankInfo())
    assert output.loss.item() == pytest.approx((loss + 0.5 * captions).item(), rel=1e-6)
    assert set(output.metrics) == {"two_afc", "caption_loss", "logit_scale"}
    assert output.metrics["two_afc"] == score
    assert output.metrics["caption_loss"].item() == pytest.approx(captions.item(), rel=1e-6)
    assert output.metrics["logit_scale"].item() == pytest.approx(scale.item())
    assert not any(metric.requires_grad for metric in output.metrics.values())
    assert list(objective.state_dict()) == list(PerceptualInit(_recipe(), RankInfo()).state_dict())


def _train(ranks: RankInfo, *overrides: str, steps: int = 3) -> tuple[list[float], dict[str, list[float]]]:
    """(mean loss over ranks of every step, all weights afterwards, flat)."""
    recipe = _recipe(*overrides)
    engine = build_engine(PerceptualInit(recipe, ranks), recipe, ranks, torch.device("cpu"))
    losses = []
    for step in range(steps):
        loss = engine.forward_backward(_batch(step, ranks)).loss.detach()
        if ranks.world > 1:
            torch.distributed.all_reduce(loss)
        losses.append(loss.item() / ranks.world)
        engine.step(1e-3)
    weights = engine.objective.model.state_dict()
    return losses, {name: tensor.flatten().tolist() for name, tensor in weights.items()}


def test_the_text_tower_is_trained_with_captions_alone() -> None:
    """A run that asks for captions would leave the text tower at random; one that does not would move it."""
    start = {name: tensor.flatten().tolist() for name, tensor in build_clip(TINY_CLIP, 42).state_dict().items()}
    visual = {name for name in start if name.startswith("visual.")}
    moved = {
        override: {name for name, values in _train(RankInfo(), override)[1].items() if values != start[name]}
        for override in (CAPTIONS, "objective.caption_weight=0")
    }
    assert moved["objective.caption_weight=0"] == visual
    assert moved[CAPTIONS] == set(start)


def test_two_ranks_train_as_one_does() -> None:
    """A launcher's ranks would train another first stage: prompts of the other rank count as right."""
    losses, weights = _train(RankInfo(), CAPTIONS)
    (found, shared), (_, other) = run_ranks(_train, 2, CAPTIONS, "engine.kind=deepspeed", "engine.zero_stage=2")
    assert found == pytest.approx(losses, rel=1e-5)
    assert shared == other
    for name in ("visual.proj", "text_projection", "logit_scale"):
        assert shared[name] == pytest.approx(weights[name], rel=1e-3, abs=1e-4)


def test_the_logit_scale_stays_in_its_bounds() -> None:
    """The temperature would run away; a bound of another stage would not be the recipe's."""
    _, weights = _train(RankInfo(), CAPTIONS, "objective.max_logit_scale=1")
    assert weights["logit_scale"] == [0.0]


def test_the_second_stage_takes_both_towers() -> None:
    """The text tower that learnt prompts would be left behind, and CLIP start from a random one all the same."""
    recipe = _recipe(CAPTIONS)
    engine = build_engine(PerceptualInit(recipe, RankInfo()), recipe, RankInfo(), torch.device("cpu"))
    engine.forward_backward(_batch())
    engine.step(1e-3)
    first = engine.objective.model.state_dict()
    clip = Clip(load_recipe("clip_toy_captions", [f"model={TINY_CLIP}"]), RankInfo())
    random = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    clip.adopt(first)
    for name, tensor in clip.model.state_dict().items():
        assert torch.equal(tensor, first[name]), name
        assert not torch.equal(tensor, random[name]), name
