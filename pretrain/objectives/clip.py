"""Contrastive language-image pretraining: both towers and the logit scale."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pineco.data_pipeline.batches import ImageTextBatch
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.losses import contrastive_loss
from pineco.pretrain.models.clip import Normalise, build_clip, load_text_tower, open_clip_export
from pineco.pretrain.objectives.base import Bound, Objective, StepOutput, logit_scale_bound
from pineco.pretrain.recipe.objectives import ClipSettings
from pineco.pretrain.recipe.settings import Recipe


class Clip(Objective):
    """Loss over the micro-batch gathered from all ranks (Radford et al. 2021)."""

    def __init__(self, recipe: Recipe, ranks: RankInfo) -> None:
        super().__init__()
        assert isinstance(recipe.objective, ClipSettings)
        self.settings = recipe.objective
        self.ranks = ranks
        self.model, self.export = build_clip(recipe.model, recipe.seed), open_clip_export(recipe.model)
        self._start_text()
        self.normalise = Normalise()

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """The whole model of the first stage: a text tower and a logit scale that it trained, too.

        The text tower is `text_weights`' where the recipe names one.
        """
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
        return [logit_scale_bound(self.model, self.settings.max_logit_scale)]
