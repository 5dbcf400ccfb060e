"""Sizes that NeCo is planned with: timm's models, NeCo's own objective, and what its kernels and autograd keep."""

from __future__ import annotations

import subprocess
import sys
import weakref
from typing import Any

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pineco.kernels.neco_loss import bench
from pineco.kernels.soft_sort.networks import layers
from pineco.kernels.soft_sort.relaxation import Relaxation
from pineco.kernels.timing import peak_bytes
from pineco.launch.plan.model_size import NoEstimateError, Tower, model_size
from pineco.launch.plan.neco_loss_size import COMPARATOR, comparators, loss_flops, scratch_bytes
from pineco.launch.plan.neco_size import neco_size
from pineco.launch.plan.neco_work import neco_work
from pineco.launch.plan.timm_size import TIMM, timm_tower
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.models.backbones import PREFIX, ClipBackbone
from pineco.pretrain.objectives.neco import Neco
from pineco.pretrain.recipe.data import MultiCropSettings
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe

IN_RECIPES = ("vit_small_patch14_reg4_dinov2", "vit_base_patch14_reg4_dinov2", "vit_small_patch16_224.dino")
OTHERS = ("vit_large_patch14_dinov2.lvd142m", "vit_base_patch32_clip_224.openai", "vit_tiny_patch16_224.augreg_in21k")
SEVENTY = ("objective.image_size=70", "data.global_size=70", "data.local_size=28")  # for patches of 14 pixels
CPU = torch.device("cpu")


def _known() -> dict[str, Tower]:
    """Of every name in timm that has a formula, one for each size of model; at 224 pixels."""
    found: dict[Tower, str] = {}
    for name in timm.list_models("vit_*"):
        try:
            found.setdefault(timm_tower(name, 224), name)
        except NoEstimateError:
            continue
    return {name: tower for tower, name in found.items()}


def _built(name: str, image_size: int) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0, img_size=image_size, dynamic_img_size=True)


def _recipe(*overrides: str, size: int = 64) -> Recipe:
    """A NeCo run of small images on one CPU."""
    options = [f"objective.image_size={size}", f"data.global_size={size}", "data.local_size=32"]
    return load_recipe(
        "neco_tiny", ["init=random", "objective.weights=null", "engine.kind=local", *options, *overrides]
    )


def test_every_name_that_has_a_formula_has_timms_parameters() -> None:
    """A name that looks like those of the family, but is of another architecture, would be planned as one of them."""
    known = _known()
    assert len(known) >= 18
    assert {timm_tower(name, 224) for name in (*IN_RECIPES, *OTHERS)} <= set(known.values())
    for name, tower in known.items():
        assert tower.parameters == sum(p.numel() for p in _built(name, 224).parameters()), name


@pytest.mark.parametrize("name", [*IN_RECIPES, *OTHERS])
def test_parameters_of_other_image_sizes_are_timms(name: str) -> None:
    """Memory and checkpoints of the 518 px runs would be planned without their positions."""
    side = 518 if "patch14" in name else 384
    tower, model = timm_tower(name, side), _built(name, side)
    assert tower.parameters == sum(p.numel() for p in model.parameters())
    assert tower.layer_parameters == sum(p.numel() for p in model.blocks[0].parameters())
    assert tower.tokens - tower.prefix == (side // tower.patch) ** 2
    assert tower.prefix == model.num_prefix_tokens


@pytest.mark.parametrize("name", IN_RECIPES)
def test_flops_are_those_that_are_counted(name: str) -> None:
    """Hours and costs would be off by the same factor; 2 % for what is left out: norms, softmax and the like."""
    patch = timm_tower(name, 224).patch
    model = _built(name, 224)
    for block in model.blocks:
        block.attn.fused_attn = False  # plain products, which the counter sees
    for side in (224, 7 * patch):
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, side, side, device="meta"))
        assert timm_tower(name, 224).at(side).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_flops_of_a_clip_at_another_size_are_those_that_are_counted() -> None:
    """NeCo's local crops would be planned as images of the CLIP's own size."""
    backbone = ClipBackbone("vit_toy_p8_64", 0, drop_path=0.0)
    tower = model_size("vit_toy_p8_64").vision
    for side in (64, 32):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            backbone.tokens(backbone.module, torch.zeros(1, 3, side, side))
        assert tower.at(side).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_18x2_224", "vit_base_patch16_gap_224", "vit_base_patch16_siglip_224",
        "vit_giant_patch14_dinov2", "vit_medium_patch16_gap_256", "convnext_tiny", "vit_base_patch16_224_miil", "",
    ],
)  # fmt: skip
def test_other_names_have_no_formula(name: str) -> None:
    """They would be sized by formulas that are not theirs."""
    with pytest.raises(NoEstimateError, match=r"no formula for its size; known are vit_\{tiny,small") as caught:
        timm_tower(name, 224)
    assert f"timm:{name}:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_prefix_of_timms_names_is_that_of_the_run() -> None:
    """A recipe's model would be taken for one of open_clip's."""
    assert TIMM == PREFIX


@pytest.mark.parametrize("network", ["bitonic", "odd_even"])
def test_comparators_are_those_of_the_network(network: Any) -> None:
    """The work of the sorts would be that of another network: 483 comparators in the published one."""
    assert comparators("bitonic", 49) == 483
    for wires in (*range(1, 70), 127, 128, 129, 300):
        assert comparators(network, wires) == sum(map(len, layers(network, wires))), wires


def test_the_loss_takes_what_its_bench_says() -> None:
    """Plan and benchmark would count different operations: 10 GFLOP of sorts at the published 31,360 rows of 49."""
    assert COMPARATOR == bench._FLOPS
    sorts = loss_flops("bitonic", 31_360, 49, 0)
    assert sorts == 14 * 31_360 * 49 * 483
    assert loss_flops("bitonic", 31_360, 49, 256) - sorts == 3 * 2 * 31_360 * 49 * 256
    assert loss_flops("bitonic", 3136, 49, 0) * 8 / 14 == pytest.approx(0.5e9, rel=0.2), "both forward passes"


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the CPU's allocations")
@pytest.mark.parametrize(
    ("network", "rows", "m"), [("bitonic", 31_360, 49), ("bitonic", 392, 49), ("bitonic", 800, 16)]
)
def test_scratch_is_what_the_kernels_allocate(network: Any, rows: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch that does not fit would be let through: the formula is at most 5 % off what is allocated."""
    from pineco.kernels.neco_loss import kernel

    monkeypatch.setattr(kernel.Plan, "launch", lambda *_: None)
    similarities, relaxation, scale = torch.zeros(rows, m), Relaxation("cauchy", 1.0), torch.ones(rows)
    peak = peak_bytes(
        lambda: kernel.forward(similarities, similarities, scale, network, relaxation, relaxation, True), CPU
    )
    gradient = 4 * rows * m
    assert scratch_bytes(network, rows, m) + gradient == pytest.approx(peak, rel=0.05)
    if rows == 31_360:
        assert (scratch_bytes(network, rows, m) + gradient) / 1e6 == pytest.approx(51, abs=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the CPU's allocations")
@pytest.mark.parametrize(("network", "m"), [("odd_even", 49), ("bitonic", 256)])
def test_scratch_of_networks_in_memory_is_not_less_than_the_kernels_allocate(
    network: Any, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much they take depends on the GPU; more than planned would not fit."""
    from pineco.kernels.neco_loss import kernel

    monkeypatch.setattr(kernel.Plan, "launch", lambda *_: None)
    monkeypatch.setattr(kernel.sorting, "most_programs", lambda _: 1 << 20)
    similarities, relaxation, scale = torch.zeros(3136, m), Relaxation("cauchy", 1.0), torch.ones(3136)
    peak = peak_bytes(
        lambda: kernel.forward(similarities, similarities, scale, network, relaxation, relaxation, True), CPU
    )
    assert 1.0 <= (scratch_bytes(network, 3136, m) + 4 * 3136 * m) / peak <= 1.1


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["objective.teacher=false"],
        ["objective.trainable_blocks=2"],
        ["model=timm:vit_tiny_patch16_224", "objective.head_layers=1"],
        ["model=timm:vit_small_patch14_reg4_dinov2", *SEVENTY],
        ["model=timm:vit_tiny_patch16_224", "objective.trainable_blocks=3", "objective.head_layers=2"],
    ],
    ids=["clip", "no teacher", "two blocks of a clip", "timm", "registers", "three blocks"],
)  # fmt: skip
def test_parameters_and_checkpoints_are_those_of_the_objective(overrides: list[str]) -> None:
    """Memory and disk would be planned for another model, or without its teacher and queue."""
    recipe = _recipe(*overrides)
    objective, work = Neco(recipe, RankInfo()), neco_work(recipe)
    weights = [p for name, p in objective.named_parameters() if not name.startswith("teacher.")]
    assert work.parameters == sum(p.numel() for p in weights)
    assert work.trained == sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert work.exported == sum(p.numel() for p in objective.model.parameters())
    held = sum(t.numel() * t.element_size() for t in objective.state_dict().values())
    counters = 3 * 8  # int64: micro-batches, and entries of two queues
    assert work.kept is not None
    assert held == 4 * work.parameters + work.kept.value + counters


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("blocks", [None, 3], ids=["all blocks", "three blocks"])
@pytest.mark.parametrize("model", ["timm:vit_tiny_patch16_224", "vit_toy_p8_64"])
def test_activations_are_what_autograd_keeps(model: str, blocks: int | None, checkpointing: bool) -> None:
    """A micro-batch that does not fit would be let through, or one that fits refused: in fp32 the formula is 0 to 15 %
    above what a CPU keeps of the student's two passes."""
    scaled = f"objective.trainable_blocks={'null' if blocks is None else blocks}"
    recipe = _recipe(f"model={model}", scaled, f"objective.checkpointing={checkpointing}", "engine.precision=fp32")
    assert 1.0 <= neco_size(recipe).student_bytes * 3 / _student_bytes(recipe, 3) <= 1.15


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layer_scale_and_stochastic_depth_are_in_the_activations(precision: str) -> None:
    """DINOv2's layers keep two values more a token than CLIP's; in bf16 autograd keeps the cast weights as well, which
    the plan has a line for."""
    options = [*SEVENTY, "objective.drop_path=0.1", f"engine.precision={precision}"]
    recipe = _recipe("model=timm:vit_small_patch14_reg4_dinov2", *options)
    images = 4
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        kept = _student_bytes(recipe, images)
    cast = 2 * neco_size(recipe).trained if precision == "bf16" else 0
    assert 1.0 <= (neco_size(recipe).student_bytes * images + cast) / kept <= 1.15


class _Kept:
    """What a node of the graph holds; gone with it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def _student_bytes(recipe: Recipe, images: int) -> int:
    """That autograd keeps of both passes of the student in training: distinct tensors, without weights and pixels."""
    objective = Neco(recipe, RankInfo()).train()
    kept = weakref.WeakSet[_Kept]()

    def keep(tensor: torch.Tensor) -> _Kept:
        kept.add(found := _Kept(tensor))
        return found

    assert isinstance(recipe.data, MultiCropSettings)
    crops = [(2, recipe.data.global_size), (recipe.data.local_crops, recipe.data.local_size)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda found: found.tensor):
        tokens = [objective.backbone.tokens(objective.model, torch.zeros(n * images, 3, s, s)) for n, s in crops]
        outputs = [objective.head(x.movedim(1, 3)) for x in tokens]
    own = {t.untyped_storage().data_ptr() for t in objective.state_dict().values()}
    pixels = {(3, side, side) for _, side in crops}
    tensors = [found.tensor for found in kept if tuple(found.tensor.shape[1:]) not in pixels]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert all(output.requires_grad for output in outputs), "the graph is there"
    return sum(size for address, size in storages.items() if address not in own)


def test_a_size_needs_no_torch() -> None:
    """Planning on a login node would take the seconds of an import, or fail where torch is not there."""
    code = "import sys, pineco.launch.plan.timm_size, pineco.launch.plan.neco_work"
    code += "; print([m for m in ('torch', 'timm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
