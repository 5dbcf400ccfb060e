"""NeCo's loss against an independent restatement of the original, and what must not depend on ranks or starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffsort import DiffSortNet  # type: ignore[import-untyped] # it has no stubs
from torch import Tensor
from torchvision.ops import roi_align

from pineco.data_pipeline.batches import MultiCropBatch
from pineco.data_pipeline.errors import InputError
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.engine import LocalEngine, build_engine
from pineco.pretrain.objectives.neco import Neco, similarity_spread
from pineco.pretrain.patch_queue import pick
from pineco.pretrain.recipe.data import MultiCropSettings
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from tests.support.ranks import TINY_CLIP, run_ranks

G, S, K, SIDE = 32, 16, 2, 3
ONE = RankInfo()
LARGE = ["data.global_size=64", "objective.image_size=64"]  # the blur of attention needs 4 x 4 patches


def recipe(*overrides: str, batch: int = 4) -> Recipe:
    return load_recipe(
        "neco_tiny",
        [
            "model=timm:test_vit",
            "objective.weights=null",
            f"objective.image_size={G}",
            f"objective.aligned={SIDE}",
            "objective.head_hidden=48",
            "objective.head_width=24",
            "objective.queue=64",
            "objective.drop_path=0",
            "objective.student_steepness=20",
            "objective.teacher_steepness=20",
            f"data.batch_size={batch}",
            f"data.lanes={batch}",
            f"data.global_size={G}",
            f"data.local_size={S}",
            f"data.local_crops={K}",
            "engine.precision=fp32",
            "engine.kind=local",
            "engine.device=cpu",
            *overrides,
        ],
    )


def views(images: int = 4, seed: int = 0, size: int = G) -> MultiCropBatch:
    draw = torch.Generator().manual_seed(seed)

    def pixels(crops: int, size: int) -> Tensor:
        return torch.randint(0, 256, (images, crops, 3, size, size), generator=draw, dtype=torch.uint8)

    corners = torch.rand(images, 2, 1 + K, 2, 2, generator=draw) * 0.4
    sides = 0.3 + 0.3 * torch.rand(images, 2, 1 + K, 2, 2, generator=draw)
    boxes = torch.cat((corners, corners + sides), dim=-1)
    return MultiCropBatch(pixels(2, size), pixels(K, S), boxes, torch.arange(images))


def part(batch: MultiCropBatch, rank: int, world: int) -> MultiCropBatch:
    each = len(batch) // world
    rows = slice(rank * each, (rank + 1) * each)
    return MultiCropBatch(batch.globals[rows], batch.locals[rows], batch.overlaps[rows], batch.samples[rows])


def started(settings: Recipe, ranks: RankInfo = ONE) -> Neco:
    torch.manual_seed(0)
    objective = Neco(settings, ranks)
    objective.prepare(10)
    with torch.no_grad():  # a head of trained size, and a teacher that differs from its student
        draw = torch.Generator().manual_seed(1)
        for parameter in objective.head.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        if objective.teacher is not None:
            for parameter in objective.teacher["head"].parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return objective.train()


# --- the original, restated ----------------------------------------------------------------------------------------


def permutations(patches: Tensor, references: Tensor, steepness: float, kind: str, network: str) -> Tensor:
    """(B * N, M, M) soft permutation matrices of the similarities of (B, N, D) patches to (B, M, D) references."""
    if kind == "cosine":
        rows = torch.einsum("bnd,bmd->bnm", F.normalize(patches, dim=-1), F.normalize(references, dim=-1))
    else:
        rows = torch.cdist(patches, references)
    sorter = DiffSortNet(network, references.shape[1], steepness=steepness, distribution="cauchy")
    return sorter(rows.flatten(0, 1))[1]


def original(objective: Neco, batch: MultiCropBatch, references: dict[tuple[int, int], Tensor]) -> Tensor:
    """The published loss, pair by pair, from features that the objective's own towers give."""
    settings = objective.settings

    def features(images: Tensor, model: Any, head: Any) -> list[Tensor]:
        found = []
        for crop in images.unbind(dim=1):
            pixels = (crop.float() - objective.pixel_mean) / objective.pixel_std
            tokens = model.forward_features(pixels)[:, model.num_prefix_tokens :]
            side = crop.shape[-1] // 16
            found.append(F.normalize(head(tokens), dim=-1).transpose(1, 2).reshape(len(crop), -1, side, side))
        return found

    def aligned(maps: Tensor, boxes: Tensor) -> Tensor:
        found = roi_align(maps, list((boxes * maps.shape[-1])[:, None]), settings.aligned, aligned=True)
        return found.flatten(2).transpose(1, 2)

    source = objective.teacher or {"model": objective.model, "head": objective.head}
    with torch.no_grad():
        teachers = features(batch.globals, source["model"], source["head"])
    students = [
        *features(batch.globals, objective.model, objective.head),
        *features(batch.locals, objective.model, objective.head),
    ]
    network = {"bitonic": "bitonic", "odd_even": "odd_even"}[settings.network]
    total = torch.zeros(())
    for crop in (0, 1):
        others = [view for view in range(2 + K) if view != crop]
        subtotal = torch.zeros(())
        for number, view in enumerate(others):
            boxes = batch.overlaps[:, crop, number]
            target = aligned(teachers[crop], boxes[:, 0])
            against = references[crop, number]
            p = permutations(aligned(students[view], boxes[:, 1]), against, settings.student_steepness,
                             settings.similarity, network)  # fmt: skip
            q = permutations(target, against, settings.teacher_steepness, settings.similarity, network)
            subtotal = subtotal - (q.detach() * torch.log(p)).sum(dim=-1).mean()
        total = total + subtotal / len(others)
    return total / 2


@pytest.mark.parametrize(
    "options",
    [[], ["objective.network=odd_even"], ["objective.similarity=euclidean"], ["objective.references=batch"],
     ["objective.teacher=false"]],
    ids=["published", "odd_even", "euclidean", "batch", "no teacher"],
)  # fmt: skip
def test_the_loss_is_the_original_one(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Post-pretraining would teach something else than what was published."""
    objective, batch = started(recipe(*options)), views()
    seen: dict[tuple[int, int], Tensor] = {}
    draw = objective._references

    def remember(teacher: Tensor, counts: Tensor | None, crop: int, number: int) -> Tensor:
        seen[crop, number] = draw(teacher, counts, crop, number)
        return seen[crop, number]

    monkeypatch.setattr(objective, "_references", remember)
    loss = objective(batch).loss
    loss.backward()
    ours = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    expected = original(objective, batch, seen)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert len(seen) == 2 * (1 + K)
    assert set(ours) == {name for name, p in objective.named_parameters() if p.grad is not None}
    assert any(name.startswith("model.") for name in ours)
    largest = max(float(p.grad.abs().max()) for p in objective.parameters() if p.grad is not None)
    for name, parameter in objective.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(ours[name], parameter.grad, rtol=1e-4, atol=1e-4 * largest), name


# --- ranks, starts, schedules --------------------------------------------------------------------------------------


def _three_steps(ranks: RankInfo, settings: Recipe) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of this rank, and everything that a checkpoint would hold."""
    objective = started(settings, ranks)
    engine = build_engine(objective, settings, ranks, torch.device("cpu"))
    losses = []
    assert isinstance(settings.data, MultiCropSettings)
    for step in range(3):
        batch = part(views(4, seed=step, size=settings.data.global_size), ranks.rank, ranks.world)
        losses.append(float(engine.forward_backward(batch).loss.detach()))
        engine.step(1e-4, 0.1)
        objective.after_step(step)
    state = {name: tensor.detach().clone() for name, tensor in objective.state_dict().items()}
    return losses, state | engine.optimizer_state()


@pytest.mark.parametrize(
    "options",
    [[], ["objective.references=batch"], [*LARGE, "objective.mask=fg"],
     [*LARGE, "objective.mask=bg", "objective.references=batch"]],
    ids=["queue", "batch", "foreground", "background"],
)  # fmt: skip
def test_two_ranks_are_one_with_twice_the_batch(options: list[str]) -> None:
    """What is learnt would depend on the number of GPUs: references, queue, the mean over foreground patches.

    Weights are compared through Adam's mean of gradients: its step of a gradient near zero is of either sign.
    """
    ((one, alone),) = run_ranks(_three_steps, 1, recipe(*options))
    (first, shared), (second, _) = run_ranks(_three_steps, 2, recipe(*options))
    for number, expected in enumerate(one):
        assert (first[number] + second[number]) / 2 == pytest.approx(expected, rel=1e-5)
    gradients = [name for name in alone if name.startswith("exp_avg/")]
    largest = max(float(alone[name].abs().max()) for name in gradients)
    for name in gradients:
        assert torch.allclose(shared[name], alone[name], rtol=0, atol=1e-5 * largest), name
    scale = float(alone["queue.patches"].abs().max())
    assert torch.allclose(shared["queue.patches"], alone["queue.patches"], rtol=0, atol=1e-5 * scale)
    assert torch.equal(shared["queue.entries"], alone["queue.entries"])


def test_a_resumed_run_is_the_same_run() -> None:
    """The original loses its queue: after a restart, references would come from other images than before it."""
    settings = recipe()
    _, whole = _three_steps(ONE, settings)
    whole = {name: tensor for name, tensor in whole.items() if not name.startswith("exp_avg")}
    objective = started(settings)
    engine = build_engine(objective, settings, ONE, torch.device("cpu"))
    for step in range(2):
        engine.forward_backward(views(4, seed=step))
        engine.step(1e-4, 0.1)
        objective.after_step(step)
    state, moments = objective.state_dict(), engine.optimizer_state()
    again = Neco(settings, ONE).train()
    again.prepare(10)
    again.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    engine = build_engine(again, settings, ONE, torch.device("cpu"))
    engine.load_state(moments, 2)
    engine.forward_backward(views(4, seed=2))
    engine.step(1e-4, 0.1)
    again.after_step(2)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_the_queue_holds_the_newest_patches_of_every_image() -> None:
    """References would come from one image, or never change."""
    objective = started(recipe("objective.queue=24", "objective.pushed=2"))
    entries = []
    for step in range(4):
        objective(views(4, seed=step))
        entries.append(objective.queue.entries.tolist())
    assert entries == [[8, 8], [16, 16], [24, 24], [24, 24]]
    assert len(torch.unique(objective.queue.patches[0], dim=0)) > 12
    assert not torch.equal(objective.queue.patches[0], objective.queue.patches[1])


def test_patches_that_count_are_queued_first() -> None:
    """The queue of the foreground's ablation would turn over as slowly as there is foreground in the images."""
    patches = torch.arange(2 * 9.0).view(2, 9, 1)
    counts = torch.zeros(2, 9, dtype=torch.bool)
    counts[0, [1, 4, 7]] = True
    counts[1, 2] = True
    chosen, kept = pick(patches, slice(0, 2), each=3, seed=0, key=(0, 0), counts=counts)
    assert sorted(chosen[:3, 0].tolist()) == [1, 4, 7]
    assert chosen[3, 0] == 11
    assert kept.tolist() == [True, True, True, True, False, False]
    plain, every = pick(patches, slice(0, 2), each=3, seed=0, key=(0, 0))
    assert every.all()
    assert len(plain.unique()) == 6


def test_an_empty_queue_gives_no_zeros_for_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no foreground was seen yet all references would be alike: the order is noise, and nothing is learnt."""
    objective = started(recipe(*LARGE, "objective.mask=fg"))
    monkeypatch.setattr(objective, "_push", lambda targets, masks: None)
    step = objective(views(size=64))
    assert objective.queue.entries.tolist() == [0, 0]
    assert step.metrics["teacher_spread"] > 0.01


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("model", ["timm:test_vit", str(TINY_CLIP)])
def test_activations_that_are_computed_again_change_nothing(model: str, precision: str) -> None:
    """Larger crops would not fit, or train something else where they do."""

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        options = (f"model={model}", f"engine.precision={precision}", f"objective.checkpointing={checkpointing}")
        settings = recipe(*options)
        objective = started(settings)
        build_engine(objective, settings, ONE, torch.device("cpu")).forward_backward(views())
        return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}

    kept, again = gradients(False), gradients(True)
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_the_teacher_follows_and_has_no_gradient() -> None:
    """A teacher that is trained, or stands still, is no teacher."""
    objective = started(recipe("objective.momentum=0.9", "objective.momentum_end=0.9"))
    teacher: Any = objective.teacher
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.add_(1.0)
    objective.after_step(0)
    for old, new, student in zip(
        before, teacher.parameters(),
        [*objective.model.parameters(), *objective.head.parameters()], strict=True,
    ):  # fmt: skip
        assert torch.allclose(new, 0.9 * old + 0.1 * student, atol=1e-6)
        assert not new.requires_grad
    assert teacher.training is False


def test_the_spread_of_similarities_shows_a_collapse() -> None:
    """A run whose teacher orders nothing any more would look as if it had learnt: its loss falls, too."""
    references = torch.eye(4)[None]
    assert similarity_spread(references, references).item() == pytest.approx(3**0.5 / 4)  # of 1, 0, 0, 0
    alike = 1 + 1e-4 * torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert 0 < similarity_spread(alike, alike).item() < 1e-6


def test_a_step_tells_how_far_the_teachers_similarities_lie_apart() -> None:
    """Collapse would show nowhere."""
    objective = started(recipe())
    healthy = objective(views()).metrics["teacher_spread"]
    teacher: Any = objective.teacher
    with torch.no_grad():
        teacher["head"][-1].weight.mul_(1e-3)
        teacher["head"][-1].bias.fill_(1.0)
    objective.queue.entries.zero_()
    assert objective(views()).metrics["teacher_spread"] < 0.1 * healthy
    assert not healthy.requires_grad


def test_backbone_and_head_have_rates_of_their_own() -> None:
    """A head at the backbone's rate of 1e-5 would stay random; a backbone at the head's would forget."""
    settings = recipe("optimizer.lr=1e-5", "objective.head_lr=1e-4")
    objective = started(settings)
    engine = build_engine(objective, settings, ONE, torch.device("cpu"))
    assert isinstance(engine, LocalEngine)
    engine.forward_backward(views())
    engine.step(5e-6, 0.3)
    groups = engine.optimizer.param_groups
    assert sorted({(round(1e9 * g["lr"]), g["weight_decay"]) for g in groups}) == [
        (5000, 0.0), (5000, 0.3), (50000, 0.0), (50000, 0.3),
    ]  # fmt: skip
    heads = {id(p) for p in objective.head.parameters()}
    assert all(g["lr"] == pytest.approx(5e-5) for g in groups if id(g["params"][0]) in heads)


def test_only_the_last_blocks_train() -> None:
    """An ablation would train all of the backbone."""
    objective = started(recipe("objective.trainable_blocks=1"))
    trained = {name for name, p in objective.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(f"blocks.{len(objective.model.blocks) - 1}.") for name in trained)
    with pytest.raises(InputError, match="trainable_blocks is 99; this backbone has"):
        started(recipe("objective.trainable_blocks=99"))


@pytest.mark.parametrize("mask", ["fg", "bg"])
def test_masked_losses_count_some_patches(mask: str) -> None:
    """An ablation would be the full loss, or none."""
    full, part_of = (started(recipe(*LARGE, f"objective.mask={m}"))(views(size=64)).loss for m in ("all", mask))
    assert part_of.isfinite()
    assert part_of > 0
    assert part_of.item() != full.item()


def test_views_must_be_whole_patches() -> None:
    """The last pixels of each crop would never be seen, and overlaps lie beside their patches."""
    with pytest.raises(InputError, match=r"data\.local_size is 20; it must be a multiple of the patch, 16 pixels"):
        started(recipe("data.local_size=20"))
    with pytest.raises(
        InputError, match=r"objective\.image_size is 40; timm:test_vit needs a multiple of its patch, 16"
    ):
        started(recipe("objective.image_size=40"))
    with pytest.raises(InputError, match=r"image_size is 64, \S+ sees 32 pixels; pass objective\.image_size=32"):
        started(recipe(f"model={TINY_CLIP}", "objective.image_size=64"))


def test_a_foreground_needs_some_patches() -> None:
    """The blur of the attention would end the run in the middle of torch."""
    with pytest.raises(InputError, match=r"global_size is 48 and objective\.mask fg; .* 4 x 4 patches, 64 pixels"):
        started(recipe("data.global_size=48", "objective.image_size=48", "objective.mask=fg"))


def test_a_clip_of_ours_is_a_backbone_too() -> None:
    """The encoders that this project trains could not be post-pretrained."""
    objective = started(recipe(f"model={TINY_CLIP}", "data.local_size=16"))
    loss = objective(views()).loss
    loss.backward()
    assert objective.model.visual.conv1.weight.grad.abs().sum() > 0
    assert objective.model.token_embedding.weight.grad is None
    assert objective.export.config_file.endswith("open_clip_config.json")
