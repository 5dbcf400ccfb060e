"""Perceptual initialisation: a random image tower learns human similarity judgements before it sees any text."""

from __future__ import annotations

import torch

from data_pipeline.batches import TripletBatch
from pretrain.distributed import RankInfo
from pretrain.features import clip_features
from pretrain.losses import cosine_distance, triplet_hinge, two_afc
from pretrain.models import Normalise, build_clip, open_clip_export
from pretrain.objectives.base import Objective, StepOutput
from pretrain.recipe import PerceptualInitSettings, Recipe


class PerceptualInit(Objective):
    """2AFC hinge on the cosine distances of the image tower's features (arXiv 2505.14204, stage 1).

    Holds the whole CLIP so that its export loads like any other and the second stage starts from the same text
    tower as a random start with this seed; only the image tower is trained.
    """

    def __init__(self, recipe: Recipe, ranks: RankInfo) -> None:
        super().__init__()
        self.settings: PerceptualInitSettings = recipe.objective
        self.model, self.export = build_clip(recipe.model, recipe.seed), open_clip_export(recipe.model)
        self.model.requires_grad_(False)
        self.model.visual.requires_grad_(True)
        if self.settings.features != "embedding":
            self.model.visual.proj.requires_grad_(False)  # features are read before it
        self.normalise = Normalise()

    def forward(self, batch: TripletBatch) -> StepOutput:
        images = torch.cat((batch.reference, batch.left, batch.right))
        features = clip_features(self.model, self.normalise(images), self.settings.features)
        reference, left, right = features.chunk(3)
        d_left, d_right = cosine_distance(reference, left), cosine_distance(reference, right)
        loss = triplet_hinge(d_left, d_right, batch.right_vote, self.settings.margin)
        return StepOutput(loss, {"two_afc": two_afc(d_left, d_right, batch.right_vote).detach()})
