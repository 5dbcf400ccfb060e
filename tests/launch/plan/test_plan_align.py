"""The plan of a run of perceptual alignment: counts are those of the objective, bytes near what autograd keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pineco.data_pipeline.batches import TripletBatch
from pineco.launch.cluster import load_cluster
from pineco.launch.plan.align_work import align_work
from pineco.launch.plan.plan import plan
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.objectives.align import Align
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from tests.support.ranks import TINY_CLIP

TIMM = "timm:vit_tiny_patch16_224"
ENSEMBLE = f"objective.ensemble=[{{model: '{TIMM}', features: cls_patch}}, {{model: '{TIMM}'}}]"


def recipe(*overrides: str, model: str = TIMM, size: int = 64) -> Recipe:
    fixed = [f"model={model}", "init=random", f"objective.image_size={size}", "engine.precision=fp32"]
    return load_recipe("align_tiny", [*fixed, *overrides])


CASES = [
    (recipe(), "lora"),
    (recipe("objective.tune=full"), "full"),
    (recipe("objective.tune=head", "objective.head_hidden=24", "objective.features=cls_patch"), "head"),
    (recipe(model=TINY_CLIP, size=32), "lora of a CLIP"),
    (recipe(ENSEMBLE, "objective.head_hidden=24"), "ensemble"),
]


def _triplets(size: int, samples: int = 2) -> TripletBatch:
    reference, left, right = (torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8) for _ in range(3))
    return TripletBatch(reference, left, right, torch.rand(samples), torch.arange(samples))


@pytest.mark.parametrize(("settings", "name"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_parameters_and_checkpoints_are_those_of_the_objective(settings: Recipe, name: str) -> None:
    """Memory, disk and all-reduce would be planned for another run: of LoRA, some hundred times too large."""
    objective, work = Align(settings, RankInfo()), align_work(settings)
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in objective.parameters())
    files = [part for part in objective.exported().values() if isinstance(part, dict)]
    exported = sum(tensor.numel() for part in files for tensor in part.values())
    if name != "full":
        assert work.trained == trained
    assert work.parameters == everything
    assert work.exported == exported


def test_a_forward_pass_is_counted() -> None:
    """Hours and costs would be off by the same factor."""
    settings = recipe()
    objective = Align(settings, RankInfo()).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        objective(_triplets(64))
    forward = align_work(settings).flops / 2  # LoRA: as much again backward
    assert counter.get_total_flops() / 2 == pytest.approx(forward, rel=0.03)


def test_activations_are_what_autograd_keeps() -> None:
    """A micro-batch that does not fit would be let through, or one that fits refused."""
    settings, kept = recipe("objective.lora.dropout=0.0"), dict[int, torch.UntypedStorage]()
    objective = Align(settings, RankInfo()).train()
    own = {p.untyped_storage().data_ptr() for p in [*objective.parameters(), *objective.buffers()]}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(_triplets(64))
    found = sum(storage.nbytes() for storage in kept.values()) / 2
    work, layers = align_work(settings).activations, 12
    assert 0.95 <= found / (work * layers / (layers + 1)) <= 1.05


def test_the_published_run_is_planned() -> None:
    """Nobody could see what it costs before a GPU hour is spent."""
    given: list[Any] = ["objective.weights=/w.safetensors", "data.root=/nights"]
    found = plan(load_recipe("align_dino_vitb16", given), load_cluster("default"), 1)
    assert found.line("steps").value == 4000
    assert 0 < found.line("hours").value < 1
    assert found.line("memory a rank").value < 20
