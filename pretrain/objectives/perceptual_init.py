"""Perceptual initialisation: a random image tower learns human similarity judgements before it sees any text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pineco.data_pipeline.batches import CaptionedTripletBatch, TripletBatch
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.losses import cosine_distance, prompt_contrastive_loss, triplet_hinge, two_afc
from pineco.pretrain.models.clip import Normalise, build_clip, open_clip_export
from pineco.pretrain.models.features import clip_features
from pineco.pretrain.objectives.base import Bound, Objective, StepOutput, logit_scale_bound
from pineco.pretrain.recipe.objectives import PerceptualInitSettings
from pineco.pretrain.recipe.settings import Recipe


class PerceptualInit(Objective):
    """2AFC hinge on the cosine distances of the image tower's features (arXiv 2505.14204, stage 1).

    Holds the whole CLIP so that its export loads like any other and the second stage starts from the same text
    tower as a random start with this seed; only the image tower is trained. With a `caption_weight` the text tower
    and the logit scale are trained, too, on the prompts of the same triplets, and the second stage takes them over.
    """

    def __init__(self, recipe: Recipe, ranks: RankInfo) -> None:
        super().__init__()
        assert isinstance(recipe.objective, PerceptualInitSettings)
        self.settings = recipe.objective
        self.ranks, self.captioned = ranks, self.settings.caption_weight > 0
        self.model, self.export = build_clip(recipe.model, recipe.seed), open_clip_export(recipe.model)
        self.model.requires_grad_(self.captioned)
        self.model.visual.requires_grad_(True)
        if self.settings.features != "embedding":
            self.model.visual.proj.requires_grad_(False)  # features are read before it
        self.normalise = Normalise()

    def forward(self, batch: TripletBatch) -> StepOutput:
        images = torch.cat((batch.reference, batch.left, batch.right))
        features = clip_features(self.model, self.normalise(images), self.settings.features)
        reference, left, right = features.chunk(3)
        d_left, d_right = cosine_distance(reference, left), cosine_distance(reference, right)
        hinge = triplet_hinge(d_left, d_right, batch.right_vote, self.settings.margin)
        metrics = {"two_afc": two_afc(d_left, d_right, batch.right_vote).detach()}
        if not self.captioned:
            return StepOutput(hinge, metrics)
        assert isinstance(batch, CaptionedTripletBatch)
        scale = self.model.logit_scale.float().exp().squeeze()
        captions = self._caption_loss(reference, batch.tokens, scale)
        metrics |= {"caption_loss": captions.detach(), "logit_scale": scale.detach()}
        return StepOutput(hinge + self.settings.caption_weight * captions, metrics)

    def _caption_loss(self, reference: Tensor, tokens: Tensor, scale: Tensor) -> Tensor:
        """Scalar; reference: (B, D) as the tower gives it."""
        text = self.model.encode_text(tokens, normalize=True)
        return prompt_contrastive_loss(F.normalize(reference, dim=-1), text, tokens, scale, self.ranks)

    def bounds(self) -> list[Bound]:
        return [logit_scale_bound(self.model, self.settings.max_logit_scale)] if self.captioned else []
