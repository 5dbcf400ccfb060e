"""Perceptual alignment: a pretrained backbone learns human similarity judgements (arXiv 2306.09344, 2410.10817)."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from pineco.data_pipeline.batches import TripletBatch
from pineco.data_pipeline.errors import InputError
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.losses import cosine_distance, triplet_hinge, two_afc
from pineco.pretrain.models.backbones import Backbone, ClipBackbone, build_backbone
from pineco.pretrain.models.export import EXPORT, Exported
from pineco.pretrain.models.features import feature_width, image_features
from pineco.pretrain.models.lora import (
    adapter_files,
    add_lora,
    as_open_clip,
    as_split,
    load_base,
    merged_state,
    split_attention,
)
from pineco.pretrain.objectives.base import Objective, StepOutput
from pineco.pretrain.recipe.objectives import AlignMember, AlignSettings
from pineco.pretrain.recipe.settings import Recipe

SCHEMA = 2  # of perceptual.json; in 1, class tokens and patches were read after the last norm


class Align(Objective):
    """2AFC hinge on the cosine distances of a backbone's features, or of several backbones' features in a row.

    LoRA matrices, all weights, or a head on frozen features are trained (`objective.tune`). Three forward passes a
    triplet: the original embeds the reference twice.
    """

    def __init__(self, recipe: Recipe, ranks: RankInfo) -> None:
        super().__init__()
        assert isinstance(recipe.objective, AlignSettings)
        self.settings = recipe.objective
        self.members = members_of(recipe)
        self.backbones = [self._build(member, recipe.seed) for member in self.members]
        self.model = nn.ModuleList(backbone.module for backbone in self.backbones)
        for number, backbone in enumerate(self.backbones):
            for name in ("mean", "std"):
                values = torch.tensor(getattr(backbone, name)).view(3, 1, 1) * 255
                self.register_buffer(f"{name}_{number}", values, persistent=False)
        self.width = sum(feature_width(b, m.features) for b, m in zip(self.backbones, self.members, strict=True))
        self.head = self._head(recipe.seed)

    def _build(self, member: AlignMember, seed: int) -> Backbone:
        size, tune = self.settings.image_size, self.settings.tune
        backbone = build_backbone(member.model, seed, weights=member.weights, image_size=size, drop_path=0.0)
        if tune == "lora":
            if isinstance(backbone, ClipBackbone):
                split_attention(backbone.module)
            add_lora(backbone.module, self.settings.lora, seed)
        elif tune == "head":
            backbone.module.requires_grad_(False)
        if self.settings.checkpointing:
            getattr(backbone.module, "visual", backbone.module).set_grad_checkpointing(True)
        return backbone

    def _head(self, seed: int) -> FeatureHead | None:
        if self.settings.head_hidden is None:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return FeatureHead(self.width, self.settings.head_hidden)

    def forward(self, batch: TripletBatch) -> StepOutput:
        images = torch.cat((batch.reference, batch.left, batch.right))
        reference, left, right = self.features(images).chunk(3)
        d_left, d_right = cosine_distance(reference, left), cosine_distance(reference, right)
        loss = triplet_hinge(d_left, d_right, batch.right_vote, self.settings.margin)
        return StepOutput(loss, {"two_afc": two_afc(d_left, d_right, batch.right_vote).detach()})

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, `width`)."""
        parts = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.tune != "head"):
            for number, (backbone, member) in enumerate(zip(self.backbones, self.members, strict=True)):
                mean, std = self.get_buffer(f"mean_{number}"), self.get_buffer(f"std_{number}")
                pixels = (images.float() - mean) / std
                parts.append(image_features(backbone, self.model[number], pixels, member.features))
        found = torch.cat(parts, dim=1)
        return found if self.head is None else self.head(found)

    def exported(self) -> Exported:
        """Each backbone in its ecosystem's own format with its adapter beside it; how to read them: perceptual.json."""
        files: Exported = {f"{EXPORT}/perceptual.json": json.dumps(self._description(), indent=2).encode()}
        if self.head is not None:
            head = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
            files[f"{EXPORT}/head.safetensors"] = save(head)
        for number, backbone in enumerate(self.backbones):
            folder = f"{EXPORT}/{self._folder(number)}"
            form = backbone.export
            files[folder + form.config_file.removeprefix(f"{EXPORT}/")] = form.config.encode()
            files[folder + form.weights_file.removeprefix(f"{EXPORT}/")] = self._bare_state(number)
            if self.settings.tune == "lora":
                clip = isinstance(self.backbones[number], ClipBackbone)
                adapter = adapter_files(self.model[number], self.settings.lora, clip=clip)
                files |= {f"{folder}adapter/{name}": data for name, data in adapter.items()}
        return files

    def kept(self) -> dict[str, Tensor]:
        """Everything: weights below adapters cannot be told from the merged ones."""
        return dict(self.state_dict())

    def restore(self, weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        self.load_state_dict(kept, strict=True)

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        if len(self.backbones) > 1:
            raise InputError("an ensemble starts from the weights of its members, not from another run")
        if self.settings.tune != "lora":
            self.model[0].load_state_dict(weights, strict=True)
            return
        clip = isinstance(self.backbones[0], ClipBackbone)
        load_base(self.model[0], as_split(dict(weights)) if clip else dict(weights))

    def _bare_state(self, number: int) -> dict[str, Tensor]:
        if self.settings.tune != "lora":
            return dict(self.model[number].state_dict())
        state = merged_state(self.model[number])
        return as_open_clip(state) if isinstance(self.backbones[number], ClipBackbone) else state

    def _folder(self, number: int) -> str:
        return "" if len(self.backbones) == 1 else f"{number}/"

    def _description(self) -> dict[str, object]:
        folders = [self._folder(number).rstrip("/") or "." for number in range(len(self.members))]
        return {
            "schema": SCHEMA,
            "members": [
                {"folder": folder, "features": member.features}
                for folder, member in zip(folders, self.members, strict=True)
            ],
            "margin": self.settings.margin,
            "head": None if self.head is None else {"hidden": self.settings.head_hidden, "width": self.width},
            "image_size": self.settings.image_size,
            "mean_centre": False,
        }


class FeatureHead(nn.Module):
    """x + fc2(relu(fc1(x))), features (B, D) to features (B, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.fc2(F.relu(self.fc1(features)))


def members_of(recipe: Recipe) -> tuple[AlignMember, ...]:
    """The ensemble's, or the recipe's one model."""
    settings = recipe.objective
    assert isinstance(settings, AlignSettings)
    if settings.ensemble:
        return tuple(settings.ensemble)
    return (AlignMember(model=recipe.model, weights=settings.weights, features=settings.features),)
