"""What is trained: every number of a run, typed and strict. Imports no torch, so that a login node can validate.

The defaults stand here; `recipe_file.py` merges a file and overrides over them. Where a run executes never changes a
number; that is the launcher's concern, not the recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pineco.data_pipeline.toy_world.settings import ToyWorldSettings

CHANGES_NO_NUMBER = (  # may differ when a run is resumed; the engine within rounding
    "data.workers", "data.prefetch", "data.connections", "data.memory_gib", "data.cache", "data.cache_gib",
    "data.index", "data.bad_share", "data.bad_per_shard", "engine.kind", "engine.zero_stage", "engine.device",
    "checkpoint.", "evaluation.", "tracking.", "log_every",
)  # fmt: skip
SHARED_WITH_INIT = ("seed", "model", "engine", "toy_world", "data_root")  # what both stages of a run have in common


# --- objectives, and the data each consumes ---------------------------------------------------------------------


Features = Literal["cls", "embedding", "cls_patch"]  # see pineco.pretrain.models.features


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Contrastive loss over the global micro-batch."""

    kind: str = "clip"
    max_logit_scale: float = 100.0  # exp(logit_scale) is kept at or below it
    text_weights: str | None = None  # the text tower starts from that of this export directory, or .safetensors


@dataclass(frozen=True, kw_only=True)
class PerceptualInitSettings:
    """Two-alternative forced choice hinge on the image tower's cosine distances."""

    kind: str = "perceptual_init"
    margin: float = 0.05
    features: Features = "embedding"
    # Of a contrastive loss between references and prompts, which trains the text tower; 0: it stays as it is.
    caption_weight: float = 0.0
    max_logit_scale: float = 100.0  # exp(logit_scale) is kept at or below it, where it is trained


@dataclass(frozen=True, kw_only=True)
class NecoSettings:
    """Patch neighbours keep their order (arXiv 2408.11054). The defaults are those of its published 224 px run."""

    kind: str = "neco"
    weights: str | None = None  # .safetensors of the backbone, or an export directory; null: random
    image_size: int = 224  # that the backbone's positions are made for; other crops are resampled from it
    head_lr: float = 1e-4  # optimizer.lr is the backbone's
    head_layers: int = 3
    head_hidden: int = 2048
    head_width: int = 256
    aligned: int = 7  # side of the grid that every overlap is aligned to, so 49 patches
    network: Literal["bitonic", "odd_even"] = "bitonic"
    distribution: Literal["cauchy", "logistic", "logistic_phi", "gaussian", "reciprocal", "optimal"] = "cauchy"
    student_steepness: float = 100.0
    teacher_steepness: float = 100.0
    similarity: Literal["cosine", "euclidean"] = "cosine"
    references: Literal["queue", "batch"] = "queue"
    queue: int = 8192  # patches a global crop
    pushed: int = 10  # patches of every image that enter the queue at a step
    mask: Literal["all", "fg", "bg"] = "all"  # patches that count, by the teacher's attention
    teacher: bool = True  # false: the student itself, without gradient
    momentum: float = 0.9995
    momentum_end: float = 1.0
    drop_path: float = 0.1
    trainable_blocks: int | None = None  # the last so many blocks; null: all, and everything before them
    checkpointing: bool = False  # activations are computed again instead of kept


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """On the query, key and value matrices. The defaults are those published for one backbone (arXiv 2306.09344)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.2


@dataclass(frozen=True, kw_only=True)
class AlignMember:
    """One backbone of an ensemble."""

    model: str = "???"
    weights: str | None = None  # .safetensors, or an export directory; null: random
    features: Features = "cls"


@dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """Two-alternative forced choice hinge on a pretrained backbone (arXiv 2306.09344, 2410.10817)."""

    kind: str = "align"
    weights: str | None = None  # of the recipe's model: .safetensors, or an export directory; null: random
    features: Features = "cls"
    ensemble: list[AlignMember] = field(default_factory=list)  # instead of the recipe's model
    image_size: int = 224  # that the backbones see
    margin: float = 0.05
    tune: Literal["lora", "full", "head"] = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    head_hidden: int | None = None  # width of a residual MLP on the features; null: none
    checkpointing: bool = False  # activations are computed again instead of kept


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What every data set shares."""

    root: str | None = None  # folder or s3://bucket/prefix of the shards; triplets: also NIGHTS' folder
    batch_size: int = 128  # samples of one optimizer step, over all ranks and accumulated micro-batches
    accumulation: int = 1  # micro-batches of one optimizer step
    lanes: int = 64  # decides the order of samples; must divide batch_size / accumulation
    workers: int = 2  # threads that decode; this and what follows changes no number
    prefetch: int = 4  # batches held ahead of the trainer
    connections: int = 32  # threads that read shards; at 30 ms a GET 32 bring a first batch of 256 in half a second
    memory_gib: float = 4.0  # of shards read ahead on each rank; a data set of half of it is kept whole
    index: str | None = None  # folder or s3:// of the index, where it is not beside the shards
    cache: str | None = None  # folder on a local disk that keeps what was read from s3://
    cache_gib: float = 100.0
    bad_share: float = 1e-4  # of a rank's samples of an epoch may be bad (one at least); more stop the run
    bad_per_shard: int = 50


@dataclass(frozen=True, kw_only=True)
class ImageTextSettings(DataSettings):
    captions: Literal["first", "any"] = "first"  # txt, or one of json's list anew in every epoch
    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TripletSettings(DataSettings):
    split: str = "train"
    min_votes: int = 6  # NIGHTS keeps rows with at least six votes
    ties: Literal["drop", "refuse"] = "drop"  # rows with equal votes: left out and counted, or an error
    share: float = 1.0  # of the rows that are left, by a permutation of the seed: 0.05 is part of 0.1
    shuffled: bool = False  # the control: votes dealt out anew among the triplets, after the share is taken
    caption: str = "{}"  # what the text tower reads, where it is trained; {} is the triplet's prompt


@dataclass(frozen=True, kw_only=True)
class MultiCropSettings(DataSettings):
    """Views of one image: two global crops and some local ones, which overlap."""

    global_size: int = 224
    local_size: int = 98
    local_crops: int = 4
    global_scale: tuple[float, float] = (0.25, 1.0)  # shares of the image's area
    local_scale: tuple[float, float] = (0.05, 0.25)
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    min_overlap: float = 0.01  # of a global crop and any other view, as a share of the image's area
    min_overlap_globals: float = 0.02
    jitter_p: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grey_p: float = 0.2
    blur_p: float = 0.5


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow:
    settings: type
    data: type
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


# --- sections that change numbers -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW; weight decay on matrices only, not on biases, norms and scales."""

    lr: float = 5e-4
    weight_decay: float = 0.1
    weight_decay_end: float | None = None  # where a cosine takes it to by the last step; null: it stays
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    clip_grad: float | None = None  # largest gradient norm


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    epochs: int = 1
    steps: int | None = None  # instead of epochs
    warmup: int = 0  # steps of linear warm-up
    decay: Literal["cosine", "constant"] = "cosine"


# --- sections that change no number, but for precision ----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    kind: Literal["deepspeed", "local"] = "deepspeed"
    zero_stage: Literal[0, 1, 2] = 0
    precision: Literal["fp32", "bf16"] = "bf16"  # bf16: autocast; weights and optimizer state stay fp32
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    every_epochs: int | None = 1
    every_steps: int | None = None
    keep: int = 3  # newest checkpoints that keep their optimizer state; older ones keep the exported encoder


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Zero-shot evaluation after each checkpoint."""

    data: str | None = None  # root of data sets in CLIP_benchmark's webdataset layout
    tasks: str | None = None  # comma-separated names, tags, groups or globs; null: no evaluation
    batch_size: int = 256
    allow_missing: bool = False  # measure the tasks whose data is there, and name the others in the report


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    wandb: str | None = None  # project of Weights & Biases; null: metrics.jsonl and TensorBoard alone


@dataclass(frozen=True, kw_only=True)
class ToyWorldPlace:
    """The embedded default data set, written to `root` where it is not there yet."""

    root: str = "data/toy"
    settings: ToyWorldSettings = field(default_factory=ToyWorldSettings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str = "???"
    seed: int = 42
    model: str = (
        "vit_tiny_p8_64"  # of pretrain/models/model_configs, of open_clip, the path of a .json config, or timm:NAME
    )
    data_root: str | None = None  # a folder that other paths of the recipe are written below
    init: Literal["random", "perceptual", "shuffled_triplets", "pretrained"] = "random"  # pretrained: any init_recipe
    init_recipe: str | None = None  # the first stage, where init is not random
    init_overrides: list[str] = field(default_factory=list)
    init_checkpoint: str | None = None  # a finished first stage to start from, instead of running it
    objective: Any = None  # one of OBJECTIVES, chosen by objective.kind
    data: Any = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    toy_world: ToyWorldPlace | None = None
    log_every: int = 10  # steps between two rows of metrics.jsonl and TensorBoard
