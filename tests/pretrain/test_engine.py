"""Engines against each other: same losses, same state, for every ZeRO stage and number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pineco.data_pipeline.batches import ImageTextBatch
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.engine import build_engine, deepspeed_config
from pineco.pretrain.objectives.clip import Clip
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from tests.support.ranks import TINY_CLIP, run_ranks

STEPS, BATCH = 3, 16


def _recipe(*overrides: str) -> Recipe:
    base = [f"model={TINY_CLIP}", f"data.batch_size={BATCH}", "data.lanes=4", "engine.precision=fp32"]
    return load_recipe("clip_toy", [*base, *overrides])


def _batch(step: int, ranks: RankInfo, parts: int, part: int) -> ImageTextBatch:
    random = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=random, dtype=torch.uint8)
    tokens = torch.randint(1, 49407, (BATCH, 32), generator=random)
    whole = ImageTextBatch(images, tokens, torch.arange(BATCH))
    pieces = [t.chunk(parts)[part].chunk(ranks.world)[ranks.rank] for t in (whole.images, whole.tokens, whole.samples)]
    return ImageTextBatch(*pieces)


def _train(ranks: RankInfo, *overrides: str) -> tuple[list[float], dict[str, Any]]:
    """(mean loss over ranks of every step, weights and moments afterwards)."""
    recipe = _recipe(*overrides)
    engine = build_engine(Clip(recipe, ranks), recipe, ranks, torch.device("cpu"))
    losses = []
    for step in range(STEPS):
        parts = recipe.data.accumulation
        loss = sum(engine.forward_backward(_batch(step, ranks, parts, i)).loss.detach() / parts for i in range(parts))
        assert isinstance(loss, Tensor)
        if ranks.world > 1:
            torch.distributed.all_reduce(loss)
        losses.append(loss.item() / ranks.world)
        engine.step(1e-3)
    moments = {k: v.tolist() for k, v in engine.optimizer_state().items() if "ln_final" in k}
    return losses, moments | {"weight": engine.objective.model.visual.proj.detach().tolist()}


ENGINES = {
    "local": ("engine.kind=local",),
    "zero0": ("engine.zero_stage=0",),
    "zero1": ("engine.zero_stage=1",),
    "zero2": ("engine.zero_stage=2",),
}


@pytest.fixture(scope="module")
def reference() -> tuple[list[float], dict[str, Any]]:
    return run_ranks(_train, 1, *ENGINES["local"])[0]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_in_losses_weights_and_moments(engine: str, world: int, reference: Any) -> None:
    """A hidden gradient clip, a lost average or a wrong shard would change what a recipe trains."""
    losses, state = run_ranks(_train, world, *ENGINES[engine])[0]
    assert losses == pytest.approx(reference[0], rel=1e-5)
    for name, value in reference[1].items():
        torch.testing.assert_close(torch.tensor(state[name]), torch.tensor(value), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("extra", ["data.accumulation=2", "optimizer.clip_grad=0.1"])
def test_accumulation_and_clipping_agree(extra: str) -> None:
    """The two engines would step at other times, or clip another norm."""
    local, _ = run_ranks(_train, 1, *ENGINES["local"], extra)[0]
    zero, _ = run_ranks(_train, 2, *ENGINES["zero2"], extra)[0]
    assert zero == pytest.approx(local, rel=1e-5)


def test_deepspeed_clips_only_when_asked() -> None:
    """DeepSpeed clips at norm 1 where its config is silent, which no recipe asked for."""
    assert deepspeed_config(_recipe(), 1)["gradient_clipping"] == 0.0
    assert deepspeed_config(_recipe("optimizer.clip_grad=3.0"), 1)["gradient_clipping"] == 3.0


def _resume(ranks: RankInfo, first: tuple[str, ...], second: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Losses of steps 2 and 3 of one engine, and of another that takes over its state after step 1."""
    runs: list[list[str]] = [[], []]
    recipe, other = _recipe(*first), _recipe(*second)
    engine = build_engine(Clip(recipe, ranks), recipe, ranks, torch.device("cpu"))
    engine.forward_backward(_batch(0, ranks, 1, 0))
    engine.step(1e-3)
    weights = {k: v.clone() for k, v in engine.objective.state_dict().items()}
    moments = {k: v.clone() for k, v in engine.optimizer_state().items()}
    taken = build_engine(Clip(other, ranks), other, ranks, torch.device("cpu"))
    taken.objective.load_state_dict(weights)
    taken.load_state(moments, 1)
    for losses, each in zip(runs, (engine, taken), strict=True):
        for step in (1, 2):
            losses.append(float(each.forward_backward(_batch(step, ranks, 1, 0)).loss.item()).hex())
            each.step(1e-3)
    return runs[0], runs[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_state_taken_over_gives_bit_identical_losses(engine: str) -> None:
    """A resumed run would be another run."""
    for went_on, resumed in run_ranks(_resume, 2, ENGINES[engine], ENGINES[engine]):
        assert went_on == resumed


@pytest.mark.parametrize("pair", [("zero2", "local"), ("local", "zero1")])
def test_state_moves_between_engines(pair: tuple[str, str]) -> None:
    """A checkpoint would be tied to the engine and the ZeRO stage that wrote it."""
    for went_on, resumed in run_ranks(_resume, 2, ENGINES[pair[0]], ENGINES[pair[1]]):
        values = [[float.fromhex(x) for x in run] for run in (went_on, resumed)]
        assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_logit_scale_stays_in_its_bounds() -> None:
    """The temperature would run away; under ZeRO the master copy must be clamped as well as the parameter."""
    for scale, _ in run_ranks(_clamped, 1, *ENGINES["zero1"]) + run_ranks(_clamped, 1, *ENGINES["local"]):
        assert scale == pytest.approx(1.0, abs=1e-6)


def _clamped(ranks: RankInfo, *overrides: str) -> tuple[float, None]:
    recipe = _recipe("objective.max_logit_scale=1.0", *overrides)
    engine = build_engine(Clip(recipe, ranks), recipe, ranks, torch.device("cpu"))
    for step in range(2):
        engine.forward_backward(_batch(step, ranks, 1, 0))
        engine.step(1e-3)
    return engine.objective.model.logit_scale.exp().item(), None
