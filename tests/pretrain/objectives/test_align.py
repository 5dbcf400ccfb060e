"""Perceptual alignment: the published loss, adapters and merged weights that stock libraries load, exact resume."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import peft
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pineco.data_pipeline.batches import TripletBatch
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.loader import DataPosition
from pineco.pretrain.checkpoint import Checkpoint, gather_tensors, load_checkpoint, load_weights, save_checkpoint
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.engine import build_engine
from pineco.pretrain.models.clip import build_clip
from pineco.pretrain.objectives.align import Align, FeatureHead
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from pineco.pretrain.trainer import TrainState
from tests.support.ranks import TINY_CLIP

CPU, ONE = torch.device("cpu"), RankInfo()
FEATURES = ["cls", "embedding", "cls_patch"]


def recipe(*overrides: str, model: str = "timm:test_vit", size: int = 32) -> Recipe:
    return load_recipe(
        "align_tiny",
        [
            f"model={model}",
            "init=random",
            f"objective.image_size={size}",
            "data.batch_size=4",
            "data.lanes=4",
            "engine.precision=fp32",
            "engine.kind=local",
            "engine.device=cpu",
            *overrides,
        ],
    )


def triplets(seed: int = 0, size: int = 32) -> TripletBatch:
    draw = torch.Generator().manual_seed(seed)
    shape = (4, 3, size, size)
    reference, left, right = (torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8) for _ in range(3))
    return TripletBatch(reference, left, right, torch.tensor([0.0, 1.0, 0.75, 0.25]), torch.arange(4))


def normalised(objective: Align, images: Tensor, member: int = 0) -> Tensor:
    """Images as this backbone of the objective takes them."""
    mean, std = (objective.get_buffer(f"{name}_{member}") for name in ("mean", "std"))
    return (images.float() - mean) / std


def trained(settings: Recipe, steps: int = 2) -> tuple[Align, Any]:
    """With matrices that are no longer zero."""
    objective = Align(settings, ONE).train()
    engine = build_engine(objective, settings, ONE, CPU)
    for step in range(steps):
        _step(engine, step)
    return objective, engine


def _step(engine: Any, step: int) -> None:
    torch.manual_seed(step)
    engine.forward_backward(triplets(step))
    engine.step(0.01)


def published(objective: Align, batch: TripletBatch, margin: float) -> tuple[float, float]:
    """Loss and 2AFC of DreamSim's paper, triplet by triplet, with four forward passes."""

    def distance(a: Tensor, b: Tensor) -> float:
        x, y = objective.features(a[None])[0].double(), objective.features(b[None])[0].double()
        return float(1 - (x @ y) / (x.norm() * y.norm()))

    losses, scores = [], []
    for row in range(len(batch)):
        d0 = distance(batch.reference[row], batch.left[row])
        d1 = distance(batch.reference[row], batch.right[row])
        p = float(batch.right_vote[row])
        losses.append(max(0.0, margin - (1 if p > 0.5 else -1) * (d0 - d1)))
        scores.append((d0 < d1) * (1 - p) + (d1 < d0) * p + 0.5 * (d0 == d1))
    return sum(losses) / len(losses), sum(scores) / len(scores)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("model", ["timm:test_vit", TINY_CLIP])
def test_the_loss_is_the_published_one(features: str, model: str) -> None:
    """Another margin, sign or distance would be trained than the one that people's votes were shown to improve."""
    objective = Align(recipe(f"objective.features={features}", model=model), ONE).eval()
    with torch.no_grad():
        found = objective(triplets())
        loss, score = published(objective, triplets(), 0.05)
    assert float(found.loss) == pytest.approx(loss, abs=1e-6)
    assert float(found.metrics["two_afc"]) == pytest.approx(score, abs=1e-6)


def test_only_the_adapters_learn() -> None:
    """Fine-tuning would forget what the backbone knew."""
    settings = recipe("optimizer.weight_decay=0.1")
    before = {name: tensor.clone() for name, tensor in Align(settings, ONE).state_dict().items()}
    objective, _ = trained(settings)
    changed = {name for name, tensor in objective.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert len(changed) == 2 * len(objective.backbones[0].blocks())


@pytest.mark.parametrize("features", FEATURES)
def test_merged_weights_are_adapter_and_base(features: str, tmp_path: Path) -> None:
    """What stock timm and stock peft load would not be what was trained."""
    settings = recipe(f"objective.features={features}")
    objective, engine = trained(settings)
    export = _saved(engine, tmp_path).export
    pixels = torch.randn(3, 3, 32, 32)
    merged: Any = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    base = timm.create_model("test_vit", num_classes=0, img_size=32, dynamic_img_size=True).eval()
    base.load_state_dict(_below_adapters(objective.model[0]))
    adapted: Any = peft.PeftModel.from_pretrained(base, str(export / "adapter")).eval()
    with torch.no_grad():
        own = objective.eval().model[0].forward_features(pixels)
        assert torch.allclose(own, merged.forward_features(pixels), atol=1e-5)
        assert torch.allclose(own, adapted.base_model.model.forward_features(pixels), atol=1e-5)
        fresh = Align(settings, ONE).eval().model[0].forward_features(pixels)
    assert not torch.allclose(own, fresh, atol=1e-3), "nothing was learnt, so nothing is tested"


def _below_adapters(module: torch.nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if "lora_" not in name}


def _saved(engine: Any, folder: Path, step: int = 2) -> Checkpoint:
    exported, training = gather_tensors(engine)
    state = TrainState(step, 4 * step, DataPosition(0, step))
    return save_checkpoint(folder, exported=exported, training=training, state=state)


def test_stock_open_clip_loads_an_aligned_clip(tmp_path: Path) -> None:
    """A CLIP could no longer be used with its text tower after alignment; or LoRA would reach the text tower."""
    settings = recipe(model=TINY_CLIP)
    objective, engine = trained(settings)
    export = _saved(engine, tmp_path).export
    stock = open_clip.create_model(f"local-dir:{export}").eval()
    pixels = normalised(objective, triplets().reference)
    texts = torch.randint(1, 100, (2, stock.context_length))
    with torch.no_grad():
        own = objective.eval().model[0]
        assert torch.allclose(own.encode_image(pixels), stock.encode_image(pixels), atol=1e-5)
        assert torch.allclose(own.encode_text(texts), stock.encode_text(texts), atol=1e-5)
    names = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    assert names
    assert all(".visual." in name and "lora_" in name for name in names)


def test_stock_peft_adapts_a_stock_clip(tmp_path: Path) -> None:
    """The adapter of a CLIP would fit nothing but this program's own attention."""
    settings = recipe(model=TINY_CLIP)
    objective, engine = trained(settings)
    export = _saved(engine, tmp_path).export
    base = build_clip(TINY_CLIP, settings.seed).eval()
    adapted: Any = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(export / "adapter")).eval()
    pixels = normalised(objective, triplets().reference)
    with torch.no_grad():
        own = objective.eval().model[0].encode_image(pixels)
        assert torch.allclose(own, adapted.base_model.model.encode_image(pixels), atol=1e-5)
        assert not torch.allclose(own, base.encode_image(pixels), atol=1e-3), "nothing was learnt"
        merged = adapted.merge_and_unload()
        assert torch.allclose(own, merged.encode_image(pixels), atol=1e-5)


@pytest.mark.parametrize("model", ["timm:test_vit", TINY_CLIP])
@pytest.mark.parametrize("tune", ["lora", "full", "head"])
def test_a_resumed_run_is_the_same_run(tune: str, model: str, tmp_path: Path) -> None:
    """A requeued job would go on from merged weights, with other dropout, or without Adam's moments."""
    head = ["objective.head_hidden=8"] * (tune == "head")
    settings = recipe(f"objective.tune={tune}", *head, model=model)
    whole, _ = trained(settings, steps=3)
    _, halted = trained(settings, steps=2)
    checkpoint = _saved(halted, tmp_path)
    again = Align(settings, ONE).train()
    resumed = build_engine(again, settings, ONE, CPU)
    assert load_checkpoint(checkpoint, resumed).step == 2
    _step(resumed, 2)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("tune", ["lora", "full"])
@pytest.mark.parametrize("model", ["timm:test_vit", TINY_CLIP])
def test_it_starts_from_the_export_of_another_run(model: str, tune: str, tmp_path: Path) -> None:
    """`init: pretrained` would align random weights."""
    first, engine = trained(recipe("objective.tune=full", model=model))
    second = Align(recipe(f"objective.tune={tune}", "seed=7", model=model), ONE).eval()
    load_weights(_saved(engine, tmp_path), second)
    images = triplets().reference
    with torch.no_grad():
        assert torch.allclose(first.eval().features(images), second.features(images), atol=1e-6)


def test_an_ensemble_is_its_members_in_a_row(tmp_path: Path) -> None:
    """The features of one member would drown or be lost; or members could not be told apart on disk."""
    save_file(Align(recipe("objective.tune=full"), ONE).model[0].state_dict(), tmp_path / "w.safetensors")
    members = (
        f"objective.ensemble=[{{model: 'timm:test_vit', weights: {tmp_path}/w.safetensors, features: cls}}, "
        f"{{model: {TINY_CLIP}, features: embedding}}]"
    )
    settings = recipe(members, "objective.head_hidden=8")
    objective, engine = trained(settings)
    checkpoint = _saved(engine, tmp_path / "run")
    description = json.loads((checkpoint.export / "perceptual.json").read_text())
    assert description["members"] == [{"folder": "0", "features": "cls"}, {"folder": "1", "features": "embedding"}]
    assert description["head"] == {"hidden": 8, "width": objective.width}
    first: Any = timm.create_model(f"local-dir:{checkpoint.export / '0'}", pretrained=True).eval()
    second = open_clip.create_model(f"local-dir:{checkpoint.export / '1'}").eval()
    head = FeatureHead(objective.width, 8)
    head.load_state_dict(load_file(checkpoint.export / "head.safetensors"))
    images = triplets().reference
    seen: list[Tensor] = []
    first.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        first(normalised(objective, images, 0))
        a = seen[0][:, 0]
        b = second.encode_image(normalised(objective, images, 1))
        expected = head(torch.cat((a, b), dim=1))
        assert torch.allclose(objective.eval().features(images), expected, atol=1e-4)


def test_a_head_leaves_the_backbone_alone() -> None:
    """An MLP on frozen features would change the features."""
    objective, _ = trained(recipe("objective.tune=head", "objective.head_hidden=8"))
    assert {n.split(".")[0] for n, p in objective.named_parameters() if p.requires_grad} == {"head"}


@pytest.mark.parametrize(
    ("overrides", "model", "message"),
    [
        (["objective.tune=head"], "timm:test_vit", "objective.tune is head, so objective.head_hidden must be set"),
        (["objective.lora.rank=0"], "timm:test_vit", "objective.lora.rank is 0"),
        (["objective.image_size=64"], TINY_CLIP, "pass objective.image_size=32"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides: list[str], model: str, message: str) -> None:
    """A run would train nothing, or stop in the middle of torch."""
    with pytest.raises(InputError, match=message):
        Align(recipe(*overrides, model=model), ONE)
