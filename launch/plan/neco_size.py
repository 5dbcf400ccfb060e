"""Sizes of NeCo on one image: its views, what is trained, FLOPs and what autograd keeps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from pineco.data_pipeline.errors import InputError
from pineco.launch.plan.model_size import Precision, Tower, model_size
from pineco.launch.plan.neco_loss_size import loss_flops
from pineco.launch.plan.timm_size import TIMM, timm_tower
from pineco.pretrain.recipe.data import MultiCropSettings
from pineco.pretrain.recipe.objectives import NecoSettings
from pineco.pretrain.recipe.settings import Recipe

GLOBALS = 2


@dataclass(frozen=True)
class NecoSize:
    """One image of a NeCo recipe. FLOPs and bytes are of it and of all its views; `precision` is the engine's."""

    name: str  # of the recipe
    tower: Tower
    model: int  # parameters of the exported model: the backbone, or the CLIP that it is the image tower of
    settings: NecoSettings
    data: MultiCropSettings
    precision: Precision

    @cached_property
    def views(self) -> list[tuple[int, Tower]]:
        """(how many, the backbone at their size)"""
        return [
            (GLOBALS, self.tower.at(self.data.global_size)),
            (self.data.local_crops, self.tower.at(self.data.local_size)),
        ]

    @property
    def layers(self) -> int:
        """That are trained."""
        return self.settings.trainable_blocks or self.tower.layers

    @property
    def whole(self) -> bool:
        """Whether embeddings and norms outside the layers are trained, too."""
        return self.settings.trainable_blocks is None

    @property
    def head_sizes(self) -> list[tuple[int, int]]:
        """(in, out) of the head's linear layers."""
        s = self.settings
        sizes = [self.tower.width, *[s.head_hidden] * (s.head_layers - 1), s.head_width]
        return list(pairwise(sizes))

    @property
    def head(self) -> int:
        """Parameters."""
        return sum(a * b + b for a, b in self.head_sizes)

    @property
    def trained(self) -> int:
        """A CLIP's projection and text tower are frozen: patches are read before them."""
        tower = self.tower
        backbone = tower.parameters - tower.width * tower.output if self.whole else self.layers * tower.layer_parameters
        return backbone + self.head

    @property
    def patches(self) -> int:
        """Of all views, without class token and registers."""
        return sum(n * (view.tokens - view.prefix) for n, view in self.views)

    @property
    def global_patches(self) -> int:
        n, view = self.views[0]
        return n * (view.tokens - view.prefix)

    @property
    def pairs(self) -> int:
        """Of a global crop and another view."""
        return GLOBALS * (GLOBALS - 1 + self.data.local_crops)

    @property
    def aligned(self) -> int:
        """Patches of a pair, and references."""
        return self.settings.aligned**2

    @property
    def forward(self) -> int:
        """FLOPs of the student's backbone."""
        return sum(n * view.flops for n, view in self.views)

    @property
    def teacher_forward(self) -> int:
        """FLOPs of the teacher's backbone."""
        return GLOBALS * self.views[0][1].flops

    @property
    def layers_forward(self) -> int:
        """FLOPs of the layers that are trained."""
        return self.layers * sum(n * view.layer_flops for n, view in self.views)

    @property
    def head_patch(self) -> int:
        """FLOPs of the head on one patch."""
        return 2 * sum(a * b for a, b in self.head_sizes)

    @property
    def head_flops(self) -> int:
        """Of the student's head there and back on the patches of all views, and of the teacher's on the global ones."""
        return self.head_patch * (3 * self.patches + self.global_patches)

    @property
    def loss_flops(self) -> int:
        return loss_flops(self.settings.network, self.pairs * self.aligned, self.aligned, self.settings.head_width)

    @property
    def student_bytes(self) -> int:
        """What autograd keeps of the backbone and the head.

        Of each layer what Tower.layer_bytes says, or its fp32 input alone where the rest is computed again; the inputs
        and statistics of norms outside the layers; of the head the inputs of its matrices and GELUs.
        """
        stream = 4 * self.tower.width  # of a token between two layers
        value = 2 if self.precision == "bf16" else 4
        norms = 1 + (self.tower.pre_norm and self.whole)
        total = value * self.patches * (self.tower.width + 2 * sum(out for _, out in self.head_sizes[:-1]))
        for n, view in self.views:
            layer = stream * view.tokens if self.settings.checkpointing else view.layer_bytes(self.precision)
            total += n * (self.layers * layer + norms * (stream + 8) * view.tokens)
        return total

    @property
    def activation_bytes(self) -> int:
        """At the peak: what autograd keeps, the images, a layer's gradients, and feature maps with their gradients.

        Where activations are computed again, those of one layer are there, too.
        """
        pixels = sum(
            n * (view.input_bytes(self.precision) if self.whole else view.input_values) for n, view in self.views
        )
        n, view = self.views[0]
        layers = n * view.layer_bytes(self.precision) * (2 if self.settings.checkpointing else 1)
        maps = 4 * self.settings.head_width * (2 * self.patches + self.global_patches)
        return self.student_bytes + pixels + layers + maps


def neco_size(recipe: Recipe) -> NecoSize:
    """Raises InputError where the views do not fit the backbone, NoEstimateError where no formula knows it."""
    settings, data = recipe.objective, recipe.data
    assert isinstance(settings, NecoSettings)
    assert isinstance(data, MultiCropSettings)
    if recipe.model.startswith(TIMM):
        tower = timm_tower(recipe.model.removeprefix(TIMM), settings.image_size)
        model = tower.parameters
    else:
        clip = model_size(recipe.model)
        tower, model = clip.vision, clip.parameters
    size = NecoSize(recipe.name, tower, model, settings, data, recipe.engine.precision)
    _check(size)
    return size


def _check(size: NecoSize) -> None:
    for name in ("global_size", "local_size"):
        side = getattr(size.data, name)
        if side % size.tower.patch or side < size.tower.patch:
            told = f"data.{name} is {side}; it must be a multiple of the patch, {size.tower.patch} pixels"
            raise InputError(f"{size.name}: {told}")
    if not 1 <= size.layers <= size.tower.layers or size.settings.trainable_blocks == 0:
        told = f"objective.trainable_blocks is {size.settings.trainable_blocks}; this backbone has {size.tower.layers}"
        raise InputError(f"{size.name}: {told}")
