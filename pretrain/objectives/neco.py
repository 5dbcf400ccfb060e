"""NeCo: patches keep the order of their neighbours (arXiv 2408.11054)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from pineco.data_pipeline.batches import MultiCropBatch
from pineco.data_pipeline.errors import InputError
from pineco.kernels.neco_loss import neco_loss
from pineco.pretrain.distributed import RankInfo, mean_over_ranks
from pineco.pretrain.models.attention_mask import LEAST_SIDE, foreground
from pineco.pretrain.models.backbones import build_backbone
from pineco.pretrain.objectives.base import Objective, StepOutput
from pineco.pretrain.optim import cosine, follow
from pineco.pretrain.patch_queue import PatchQueue, pick, shuffled
from pineco.pretrain.recipe.data import MultiCropSettings
from pineco.pretrain.recipe.objectives import NecoSettings
from pineco.pretrain.recipe.settings import Recipe

GLOBALS = 2


class Neco(Objective):
    """A student sees all views of an image, its teacher the global ones.

    For each global crop and each other view, the patches of their overlap are brought to one grid. A student's patch
    should sort the references, patches of other images, as the teacher's patch at the same place does. Both orders are
    soft (differentiable sorting networks), and the loss is the cross-entropy of the student's against the teacher's.
    """

    batches: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, recipe: Recipe, ranks: RankInfo) -> None:
        super().__init__()
        assert isinstance(recipe.objective, NecoSettings)
        self.settings = recipe.objective
        self.ranks, self.seed, self.peak_lr = ranks, recipe.seed, recipe.optimizer.lr
        self.steps = 1
        self.backbone = build_backbone(
            recipe.model,
            recipe.seed,
            weights=self.settings.weights,
            image_size=self.settings.image_size,
            drop_path=self.settings.drop_path,
        )
        check_sizes(recipe, self.backbone.patch)
        if self.settings.mask != "all":
            self.backbone.attention_inputs(self.backbone.module)  # refused where there is no class token
        self.model, self.export = self.backbone.module, self.backbone.export
        if self.settings.trainable_blocks is not None:
            self.backbone.train_last(self.settings.trainable_blocks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.head = projection_head(
                self.backbone.width, self.settings.head_layers, self.settings.head_hidden, self.settings.head_width
            )
        self.teacher = self._make_teacher() if self.settings.teacher else None
        if self.settings.checkpointing:
            (getattr(self.model, "visual", self.model)).set_grad_checkpointing(True)
        self.queue = PatchQueue(self.settings.queue, self.settings.head_width, recipe.seed)
        self.register_buffer("batches", torch.zeros(1, dtype=torch.int64))  # micro-batches so far: the key of draws
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.backbone, name)).view(3, 1, 1) * 255
            self.register_buffer(f"pixel_{name}", values, persistent=False)

    def _make_teacher(self) -> nn.ModuleDict:
        teacher = nn.ModuleDict({"model": copy.deepcopy(self.model), "head": copy.deepcopy(self.head)})
        return teacher.requires_grad_(False).eval()

    def prepare(self, steps: int) -> None:
        self.steps = steps

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        super().adopt(weights)
        if self.teacher is not None:
            self.teacher["model"].load_state_dict(self.model.state_dict())

    def lr_factor(self, name: str) -> float:
        return self.settings.head_lr / self.peak_lr if name.startswith("head.") else 1.0

    def train(self, mode: bool = True) -> Self:
        """The teacher drops no paths."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def after_step(self, step: int) -> None:
        if self.teacher is not None:
            share = cosine(step, self.steps, self.settings.momentum, self.settings.momentum_end)
            follow(self.teacher["model"], self.model, share)
            follow(self.teacher["head"], self.head, share)

    def forward(self, batch: MultiCropBatch) -> StepOutput:
        targets, masks = self._teacher_views(self._normalise(batch.globals))
        views = [*self._student_views(batch.globals), *self._student_views(batch.locals)]
        if self.settings.references == "queue":
            self._push(targets, masks)
        losses, spreads = [], []
        for crop in range(GLOBALS):
            for number, view in enumerate(view for view in range(len(views)) if view != crop):
                boxes = batch.overlaps[:, crop, number]
                loss, spread = self._pair(targets[crop], masks[crop], views[view], boxes, crop, number)
                losses.append(loss)
                spreads.append(spread)
        self.batches += 1
        return StepOutput(torch.stack(losses).mean(), {"teacher_spread": torch.stack(spreads).mean()})

    def _normalise(self, images: Tensor) -> Tensor:
        """(B, K, 3, H, W) uint8 -> (K * B, 3, H, W), view by view."""
        return (images.transpose(0, 1).flatten(0, 1).float() - self.pixel_mean) / self.pixel_std

    def _student_views(self, images: Tensor) -> list[Tensor]:
        """(B, K, 3, H, W) uint8 -> K feature maps (B, D, h, w)."""
        if not images.shape[1]:
            return []
        tokens = self.backbone.tokens(self.model, self._normalise(images))
        return list(_project(self.head, tokens).chunk(images.shape[1]))

    @torch.no_grad()
    def _teacher_views(self, images: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Feature maps of the global crops, and which of their patches count; None: all."""
        source: Any = self.teacher if self.teacher is not None else {"model": self.model, "head": self.head}
        if self.settings.mask == "all":
            tokens = self.backbone.tokens(source["model"], images)
            return list(_project(source["head"], tokens).chunk(GLOBALS)), [None] * GLOBALS
        tokens, attention = self.backbone.tokens_and_attention(source["model"], images)
        mask = foreground(attention)
        mask = mask if self.settings.mask == "fg" else ~mask
        return list(_project(source["head"], tokens).chunk(GLOBALS)), list(mask.chunk(GLOBALS))

    def _push(self, targets: list[Tensor], masks: list[Tensor | None]) -> None:
        """Some patches of every image of all ranks; they are there for the references of this very step."""
        step, each = int(self.batches), self.settings.pushed
        for crop, (features, mask) in enumerate(zip(targets, masks, strict=True)):
            patches, images = features.flatten(2).transpose(1, 2), self._own(len(features))
            counts = None if mask is None else mask.flatten(1)
            chosen, kept = pick(patches, images, each=each, seed=self.seed, key=(step, crop), counts=counts)
            gathered = _gather(chosen, self.ranks)
            if mask is not None:  # only patches that count are references
                gathered = gathered[_gather(kept[:, None].float(), self.ranks)[:, 0] > 0]
            self.queue.push(crop, gathered)

    def _pair(
        self, target: Tensor, mask: Tensor | None, view: Tensor, boxes: Tensor, crop: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """The loss of one global crop and one other view, and the `spread` of what it is to follow.

        boxes: (B, 2, 4), the overlap in either one.
        """
        with torch.no_grad():
            teacher = self._align(target, boxes[:, 0])
            counts = None if mask is None else (self._align(mask[:, None].float(), boxes[:, 0])[..., 0] >= 1).float()
            references = self._references(teacher, counts, crop, number)
            spread = similarity_spread(teacher, references)
        settings = self.settings
        loss = neco_loss(
            self._align(view, boxes[:, 1]),
            teacher,
            references,
            network=settings.network,
            distribution=settings.distribution,
            student_steepness=settings.student_steepness,
            teacher_steepness=settings.teacher_steepness,
            metric="cosine_similarity" if settings.similarity == "cosine" else "euclidean",
            weights=counts,
        )
        if counts is None:
            return loss, spread
        own = counts.sum()
        everyone = mean_over_ranks(own, self.ranks)
        return loss * (own / torch.where(everyone == 0, 1, everyone)), spread  # a mean over the patches of all ranks

    def _references(self, teacher: Tensor, counts: Tensor | None, crop: int, number: int) -> Tensor:
        """(B, N, D): as many for each image as it has patches; from the batch until a patch that counts is queued."""
        images, each = self._own(len(teacher)), teacher.shape[1]
        key = (int(self.batches), crop * 64 + number)
        if self.settings.references == "queue" and (counts is None or int(self.queue.entries[crop])):
            return self.queue.draw(crop, images, each=each, of=len(teacher) * self.ranks.world, key=key)
        patches = _gather(teacher.flatten(0, 1), self.ranks)
        if counts is not None and (kept := patches[_gather(counts.view(-1, 1), self.ranks)[:, 0] > 0]).numel():
            patches = kept
        wanted = len(teacher) * self.ranks.world * each
        return shuffled(patches, wanted, self.seed, key).view(-1, each, teacher.shape[2])[images]

    def _align(self, features: Tensor, boxes: Tensor) -> Tensor:
        """(B, D, h, w) and boxes in [0, 1] -> (B, N, D), the box as a grid of `aligned` x `aligned` patches."""
        side, (h, w) = self.settings.aligned, features.shape[2:]
        scaled = boxes.float() * boxes.new_tensor([w, h, w, h])
        rows = torch.arange(len(boxes), device=boxes.device, dtype=scaled.dtype)[:, None]
        with torch.autocast(features.device.type, enabled=False):
            found = roi_align(features.float(), torch.cat((rows, scaled), dim=1), side, aligned=True)
        return found.flatten(2).transpose(1, 2)

    def _own(self, images: int) -> slice:
        """Where this rank's images stand in the batch of all ranks."""
        return slice(self.ranks.rank * images, (self.ranks.rank + 1) * images)


def similarity_spread(patches: Tensor, references: Tensor) -> Tensor:
    """A scalar: how far a patch's cosine similarities to its references lie apart, as their standard deviation.

    patches: (B, N, D), references: (B, M, D). The loss alone does not tell learning from collapse: where all
    similarities are alike the order is noise, teacher and student agree on it, and the loss is ln M. Seen at 0.27
    before and at 0.02 after a run with a teacher that followed too fast (docs/log.md).
    """
    with torch.autocast(patches.device.type, enabled=False):  # bf16 near 1 has steps of 0.004
        patches, references = F.normalize(patches.float(), dim=2), F.normalize(references.float(), dim=2)
        return (patches @ references.transpose(1, 2)).std(dim=2, correction=0).mean()


def projection_head(width: int, layers: int, hidden: int, out: int) -> nn.Sequential:
    """Linear layers with GELU between them."""
    sizes = [width, *[hidden] * (layers - 1), out]
    parts: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(sizes)):
        parts += [nn.GELU()] * bool(number) + [nn.Linear(before, after)]
    for part in parts:
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
    return nn.Sequential(*parts)


def check_sizes(recipe: Recipe, patch: int) -> None:
    """InputError where a crop is no whole number of patches."""
    data, settings = recipe.data, recipe.objective
    assert isinstance(data, MultiCropSettings)
    assert isinstance(settings, NecoSettings)
    for name, size in (("global_size", data.global_size), ("local_size", data.local_size)):
        if size % patch or size < patch:
            raise InputError(
                f"{recipe.name}: data.{name} is {size}; it must be a multiple of the patch, {patch} pixels"
            )
    least = LEAST_SIDE * patch
    if settings.mask != "all" and data.global_size < least:
        told = f"{recipe.name}: data.global_size is {data.global_size} and objective.mask {settings.mask}"
        raise InputError(
            f"{told}; a foreground is found among {LEAST_SIDE} x {LEAST_SIDE} patches, {least} pixels, or more"
        )


def _project(head: nn.Module, tokens: Tensor) -> Tensor:
    """(B, D, h, w) through the head, patch by patch, onto the unit sphere: overlaps are averages of directions."""
    return F.normalize(head(tokens.movedim(1, 3)).movedim(3, 1).float(), dim=1)


def _gather(rows: Tensor, ranks: RankInfo) -> Tensor:
    """(n, D) of every rank, in rank order, without gradient."""
    if ranks.world == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(ranks.world)]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
