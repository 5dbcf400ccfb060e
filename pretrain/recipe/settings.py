"""What is trained: every number of a run, typed and strict. Imports no torch, so that a login node can validate.

The defaults and bounds stand here, in `objectives.py` and in `data.py`; `load.py` merges a file and overrides over the
defaults. The comment beside a field is what `pineco recipes NAME` prints. Where a run executes never changes a number;
that is the launcher's concern, not the recipe's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings
from pineco.data_pipeline.triplets.caption_template import check_template
from pineco.pretrain.recipe.bounds import bounded, out_of_bounds
from pineco.pretrain.recipe.data import DataSettings, ImageTextSettings, TripletSettings
from pineco.pretrain.recipe.objectives import ClipSettings, ObjectiveSettings

CHANGES_NO_NUMBER = (  # may differ when a run is resumed; the engine within rounding
    "data.workers", "data.prefetch", "data.connections", "data.memory_gib", "data.cache", "data.cache_gib",
    "data.index", "data.bad_share", "data.bad_per_shard", "engine.kind", "engine.zero_stage", "engine.device",
    "checkpoint.", "evaluation.", "tracking.", "log_every",
)  # fmt: skip
SHARED_WITH_INIT = ("seed", "model", "engine", "toy_world", "data_root")  # what both stages of a run have in common


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW; weight decay on matrices only, not on biases, norms and scales."""

    lr: float = bounded(5e-4, above=0, below=math.inf)  # peak learning rate, after the warm-up
    weight_decay: float = bounded(0.1, at_least=0, below=math.inf)  # of matrices only; it is multiplied by the rate
    # weight decay at the last step, reached along a cosine; null: it stays as it is
    weight_decay_end: float | None = bounded(None, at_least=0, below=math.inf)
    # decay of the running means of the gradient and of its square
    betas: tuple[float, float] = bounded((0.9, 0.98), at_least=0, below=1)
    eps: float = bounded(1e-8, above=0, below=math.inf)  # added to the denominator of an update
    clip_grad: float | None = None  # gradients are scaled down to this norm if theirs is larger; null: never


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Length of the run and course of the learning rate."""

    epochs: int = bounded(1, at_least=1)  # passes over the data
    steps: int | None = bounded(None, at_least=1)  # optimizer steps of the whole run; null: as many as epochs make
    warmup: int = bounded(0, at_least=0)  # steps in which the learning rate rises linearly from 0
    decay: Literal["cosine", "constant"] = "cosine"  # learning rate after the warm-up; cosine: to 0 by the last step


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What executes a step; nothing here but the precision changes numbers beyond rounding."""

    kind: Literal["deepspeed", "local"] = "deepspeed"  # local: plain PyTorch in one process
    zero_stage: Literal[0, 1, 2] = 0  # DeepSpeed divides among ranks: 0 nothing, 1 optimizer state, 2 gradients too
    precision: Literal["fp32", "bf16"] = "bf16"  # bf16: autocast; weights and optimizer state stay fp32
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is a GPU


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When a checkpoint is written, besides after the last step."""

    every_epochs: int | None = bounded(1, at_least=1)  # epochs between two checkpoints; null: none by epochs
    every_steps: int | None = bounded(None, at_least=1)  # steps between two checkpoints; null: none by steps
    # newest checkpoints that keep their optimizer state; older ones keep the exported encoder
    keep: int = bounded(3, at_least=1)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Zero-shot evaluation after each checkpoint."""

    data: str | None = None  # folder or address of data sets in CLIP_benchmark's webdataset layout
    tasks: str | None = None  # comma-separated names, tags, groups or globs of tasks; null: no evaluation
    batch_size: int = bounded(256, at_least=1)  # images of one forward pass
    allow_missing: bool = False  # true: tasks whose data is missing are skipped, and named in the report


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where metrics go besides the run directory."""

    wandb: str | None = None  # project of Weights & Biases; null: metrics.jsonl and TensorBoard alone


@dataclass(frozen=True, kw_only=True)
class ToyWorldPlace:
    """The embedded default data set, written to `root` where it is not there yet."""

    root: str = "data/toy"  # folder that the toy world is written to, if it is not there yet
    settings: ToyWorldSettings = field(default_factory=ToyWorldSettings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. Raises InputError for the first setting that is out of its bounds or contradicts another."""

    name: str = "???"  # name of the recipe in messages, reports and records
    seed: int = 42  # decides the initial weights, the order of samples and all augmentation
    # a name of pretrain/models/model_configs or of open_clip, the path of a .json config, or timm:NAME
    model: str = "vit_tiny_p8_64"
    data_root: str | None = None  # folder that other paths of the recipe are written below, by ${data_root}
    # initial weights: random; perceptual: the first stage init_recipe; shuffled_triplets: the same stage on permuted
    # votes, as a control; pretrained: any init_recipe
    init: Literal["random", "perceptual", "shuffled_triplets", "pretrained"] = "random"
    init_recipe: str | None = None  # recipe of the first stage; null: none, for init=random or an init_checkpoint
    init_overrides: list[str] = field(default_factory=list)  # key=value words for the recipe of the first stage
    init_checkpoint: str | None = None  # run directory of a finished first stage; null: the stage is run
    objective: ObjectiveSettings = field(default_factory=ClipSettings)  # one of OBJECTIVES, chosen by objective.kind
    data: DataSettings = field(default_factory=ImageTextSettings)  # the one that the objective reads
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    toy_world: ToyWorldPlace | None = None  # the embedded data set, written before the run; null: not needed
    log_every: int = bounded(10, at_least=1)  # steps between two rows of metrics.jsonl and TensorBoard

    def __post_init__(self) -> None:
        for problem in chain(out_of_bounds(self), self._conflicts()):
            raise InputError(f"{self.name}: {problem}")
        if isinstance(self.data, TripletSettings):
            check_template(self.data.caption, self.name)

    def _conflicts(self) -> Iterator[str]:
        yield from self.data.conflicts()
        yield from self.objective.conflicts(self.data)
        if self.init != "random" and not (self.init_recipe or self.init_checkpoint):
            yield f"init is {self.init}, so init_recipe or init_checkpoint must be set"
