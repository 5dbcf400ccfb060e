"""What is trained: every number of a run, typed and strict. Imports no torch, so that a login node can validate.

The defaults stand here; `recipe_file.py` merges a file and overrides over them. Where a run executes never changes a
number; that is the launcher's concern, not the recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from data_pipeline.toy_world.settings import ToyWorldSettings

CHANGES_NO_NUMBER = (  # may differ when a run is resumed; the engine within rounding
    "data.workers", "data.prefetch", "data.connections", "data.memory_gib", "data.cache", "data.cache_gib",
    "data.index", "data.bad_share", "data.bad_per_shard", "engine.kind", "engine.zero_stage", "engine.device",
    "checkpoint.", "evaluation.", "tracking.", "log_every",
)  # fmt: skip
SHARED_WITH_INIT = ("seed", "model", "engine", "toy_world", "data_root")  # what both stages of a run have in common


# --- objectives, and the data each consumes ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Contrastive loss over the global micro-batch."""

    kind: str = "clip"
    max_logit_scale: float = 100.0  # exp(logit_scale) is kept at or below it


@dataclass(frozen=True, kw_only=True)
class PerceptualInitSettings:
    """Two-alternative forced choice hinge on the image tower's cosine distances."""

    kind: str = "perceptual_init"
    margin: float = 0.05


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
    shuffled: bool = False  # the control: votes dealt out anew among the triplets


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow:
    settings: type
    data: type
    module: str  # "package.module:Class", imported only when the run starts


OBJECTIVES = {
    "clip": ObjectiveRow(settings=ClipSettings, data=ImageTextSettings, module="pretrain.objectives.clip:Clip"),
    "perceptual_init": ObjectiveRow(
        settings=PerceptualInitSettings,
        data=TripletSettings,
        module="pretrain.objectives.perceptual_init:PerceptualInit",
    ),
}


# --- sections that change numbers -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW; weight decay on matrices only, not on biases, norms and scales."""

    lr: float = 5e-4
    weight_decay: float = 0.1
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
    model: str = "vit_tiny_p8_64"  # of pretrain/model_configs, of open_clip, or the path of a .json config
    data_root: str | None = None  # a folder that other paths of the recipe are written below
    init: Literal["random", "perceptual", "shuffled_triplets"] = "random"
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
