"""Settings of the objectives. The comment beside a field is what `pineco recipes NAME` prints.

They stand here and not beside the objectives' classes because those need torch, which reading a recipe must not import.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pineco.pretrain.recipe.bounds import bounded
from pineco.pretrain.recipe.data import DataSettings, ImageTextSettings, MultiCropSettings, TripletSettings

MOST_ALIGNED = 32  # 1,024 patches: as many as the sorting kernels take
MOST_RANK = 4096  # beyond a matrix's width a rank adds nothing, and a slip of the keyboard would fill the memory

Features = Literal["cls", "embedding", "cls_patch"]  # see pineco.pretrain.models.features


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What every objective's settings share."""

    kind: str = "???"  # name of the objective, which decides the other settings of objective and data

    def conflicts(self, data: DataSettings) -> Iterator[str]:
        """What is wrong with settings that are within their bounds, or with them and the data's; one line each."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class ClipSettings(ObjectiveSettings):
    """Contrastive loss over the global micro-batch."""

    kind: str = "clip"  # name of the objective, which decides the other settings of objective and data
    max_logit_scale: float = 100.0  # largest exp(logit_scale), the factor of the similarities; it is clamped to it
    text_weights: str | None = None  # export directory or .safetensors for the text tower; null: as the other weights


@dataclass(frozen=True, kw_only=True)
class PerceptualInitSettings(ObjectiveSettings):
    """Two-alternative forced choice hinge on the image tower's cosine distances."""

    kind: str = "perceptual_init"  # name of the objective, which decides the other settings of objective and data
    # gap of the two cosine distances from which a triplet costs nothing
    margin: float = bounded(0.05, above=0, below=math.inf)
    # vector of an image that distances are measured between: cls (class token), embedding (output of the model), or
    # cls_patch (class token and mean of the patch tokens)
    features: Features = "embedding"
    # weight of a contrastive loss between references and prompts, which trains the text tower; 0: it is not trained
    caption_weight: float = bounded(0.0, at_least=0, below=math.inf)
    # largest exp(logit_scale), the factor of the similarities, where caption_weight trains it
    max_logit_scale: float = bounded(100.0, at_least=1)

    def conflicts(self, data: DataSettings) -> Iterator[str]:
        if self.caption_weight and self.features != "embedding":
            told = f"objective.caption_weight is {self.caption_weight} and objective.features {self.features}"
            yield f"{told}; captions need objective.features=embedding"


@dataclass(frozen=True, kw_only=True)
class NecoSettings(ObjectiveSettings):
    """Patches keep the order of their neighbours (arXiv 2408.11054). The defaults are its published run at 224 px."""

    kind: str = "neco"  # name of the objective, which decides the other settings of objective and data
    weights: str | None = None  # .safetensors or export directory that the backbone starts from; null: random
    # side in pixels that the backbone's position embeddings are made for; for other crops they are interpolated
    image_size: int = bounded(224, at_least=1)
    head_lr: float = bounded(1e-4, above=0, below=math.inf)  # peak learning rate of the head; optimizer.lr: backbone
    head_layers: int = bounded(3, at_least=1)  # linear layers of the projection head
    head_hidden: int = bounded(2048, at_least=1)  # features between the head's layers
    head_width: int = bounded(256, at_least=1)  # features that the head puts out, in which patches are compared
    # patches along the side of the grid that every overlap is resampled to: 7 gives 49 patches
    aligned: int = bounded(7, at_least=2, at_most=MOST_ALIGNED)
    network: Literal["bitonic", "odd_even"] = "bitonic"  # sorting network of the differentiable sort
    # sigmoid by which two values are compared in the differentiable sort
    distribution: Literal["cauchy", "logistic", "logistic_phi", "gaussian", "reciprocal", "optimal"] = "cauchy"
    # steepness of the student's differentiable sort; the larger, the closer to a hard sort
    student_steepness: float = bounded(100.0, above=0, below=math.inf)
    teacher_steepness: float = bounded(100.0, above=0, below=math.inf)  # steepness of the teacher's sort
    similarity: Literal["cosine", "euclidean"] = "cosine"  # by which patches are compared with the references
    references: Literal["queue", "batch"] = "queue"  # source of the patches that are sorted
    queue: int = bounded(8192, at_least=1)  # patches that the queue keeps for each of the two global crops
    pushed: int = bounded(10, at_least=1)  # patches of every image that enter the queue in a micro-batch
    mask: Literal["all", "fg", "bg"] = "all"  # patches that count; fg, bg: fore- or background by teacher's attention
    teacher: bool = True  # true: an average of the student's weights; false: the student itself, without gradient
    momentum: float = bounded(0.9995, at_least=0, at_most=1)  # share of its weights that the teacher keeps per step
    momentum_end: float = bounded(1.0, at_least=0, at_most=1)  # momentum at the last step, reached along a cosine
    drop_path: float = bounded(0.1, at_least=0, below=1)  # largest probability that the student skips a block
    trainable_blocks: int | None = bounded(None, at_least=1, null="all")  # number of last blocks that are trained
    checkpointing: bool = False  # true: activations are recomputed in the backward pass, which saves memory

    def conflicts(self, data: DataSettings) -> Iterator[str]:
        pushed = self.pushed * data.batch_size // data.accumulation
        if self.references == "queue" and self.queue < pushed:
            told = f"objective.queue is {self.queue}, and {pushed} patches enter it at a step"
            yield f"{told}; it must hold them, or lower objective.pushed"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA on the query, key and value matrices. The defaults are published for one backbone (arXiv 2306.09344)."""

    rank: int = bounded(16, at_least=1, at_most=MOST_RANK)  # rank of the matrices that are added
    alpha: int = bounded(32, at_least=1)  # what is added is multiplied by alpha / rank
    dropout: float = bounded(0.2, at_least=0, below=1)  # probability that an input of the added matrices is dropped


@dataclass(frozen=True, kw_only=True)
class AlignMember:
    """One backbone of an ensemble."""

    model: str = "???"  # as the recipe's model
    weights: str | None = None  # .safetensors or export directory; null: random
    features: Features = "cls"  # as objective.features


@dataclass(frozen=True, kw_only=True)
class AlignSettings(ObjectiveSettings):
    """Two-alternative forced choice hinge on a pretrained backbone (arXiv 2306.09344, 2410.10817)."""

    kind: str = "align"  # name of the objective, which decides the other settings of objective and data
    weights: str | None = None  # .safetensors or export directory that the recipe's model starts from; null: random
    # vector of an image that distances are measured between: cls (class token), embedding (output of the model), or
    # cls_patch (class token and mean of the patch tokens)
    features: Features = "cls"
    # backbones, each {model, weights, features}, whose features are concatenated; []: the recipe's model alone
    ensemble: list[AlignMember] = field(default_factory=list)
    image_size: int = bounded(224, at_least=1)  # side in pixels of the images that the backbones get
    # gap of the two cosine distances from which a triplet costs nothing
    margin: float = bounded(0.05, above=0, below=math.inf)
    # what is trained: lora (added low-rank matrices), full (all weights), head (the head alone); lora and full train
    # the head too, if there is one
    tune: Literal["lora", "full", "head"] = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    # hidden features of a residual MLP on the backbones' features
    head_hidden: int | None = bounded(None, at_least=1, null="no head")
    checkpointing: bool = False  # true: activations are recomputed in the backward pass, which saves memory

    def conflicts(self, data: DataSettings) -> Iterator[str]:
        if self.tune == "head" and self.head_hidden is None:
            yield "objective.tune is head, so objective.head_hidden must be set, e.g. 512"
        if self.weights is not None and self.ensemble:
            yield "objective.weights and objective.ensemble are both set; members name their own, so pass weights=null"


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow:
    """What an objective needs: its settings, those of its data, and its class."""

    settings: type[ObjectiveSettings]
    data: type[DataSettings]
    module: str  # "package.module:Class", imported only when the run starts


OBJECTIVES = {
    "clip": ObjectiveRow(settings=ClipSettings, data=ImageTextSettings, module="pineco.pretrain.objectives.clip:Clip"),
    "perceptual_init": ObjectiveRow(
        settings=PerceptualInitSettings,
        data=TripletSettings,
        module="pineco.pretrain.objectives.perceptual_init:PerceptualInit",
    ),
    "align": ObjectiveRow(
        settings=AlignSettings, data=TripletSettings, module="pineco.pretrain.objectives.align:Align"
    ),
    "neco": ObjectiveRow(settings=NecoSettings, data=MultiCropSettings, module="pineco.pretrain.objectives.neco:Neco"),
}
