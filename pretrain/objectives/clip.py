"""Contrastive language-image pretraining: both towers and the logit scale."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from data_pipeline.batches import ImageTextBatch
from pretrain.distributed import RankInfo
from pretrain.losses import contrastive_loss
from pretrain.models import Normalise, build_clip, load_text_tower, open_clip_export
from pretrain.objectives.base import Bound, Objective, StepOutput
from pretrain.recipe import ClipSettings, Recipe


class Clip(Objective):
    """Loss over the micro-batch gathered from all ranks (Radford et al. 2021)."""

    def __init__(self, recipe: Recipe, ranks: RankInfo) -> None:
        super().__init__()
        self.settings: ClipSettings = recipe.objective
        self.ranks = ranks
        self.model, self.export = build_clip(recipe.model, recipe.seed), open_clip_export(recipe.model)
        self._start_text()
        self.normalise = Normalise()

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """The first stage's image tower; the text tower is `text_weights`' where the recipe names one."""
        super().adopt(weights)
        self._start_text()

    def _start_text(self) -> None:
        if self.settings.text_weights is not None:
            load_text_tower(self.model, self.settings.text_weights)

    def forward(self, batch: ImageTextBatch) -> StepOutput:
        image = self.model.encode_image(self.normalise(batch.images), normalize=True)
        text = self.model.encode_text(batch.tokens, normalize=True)
        scale = self.model.logit_scale.float().exp().squeeze()
        return StepOutput(contrastive_loss(image, text, scale, self.ranks), {"logit_scale": scale.detach()})

    def bounds(self) -> list[Bound]:
        """The scale stays in [1, max]: past 100 training is known to become unstable (Radford et al., 2.5)."""
        return [Bound(self.model.logit_scale, 0.0, math.log(self.settings.max_logit_scale))]
