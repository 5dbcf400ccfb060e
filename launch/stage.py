"""What one recipe asks of N nodes: batches, bytes, FLOPs and seconds, as formulas. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from launch.cluster import Cluster
from launch.model_size import (
    BUCKET,
    GIB,
    ModelSize,
    gathered_bytes,
    logit_bytes,
    millions,
    state_bytes,
)
from pretrain.recipe import Recipe


@dataclass(frozen=True)
class DataSize:
    """What one stage reads."""

    samples: int
    sample_bytes: float
    source: str  # of the number of samples
    bytes_source: str
    guessed: bool  # the number of samples


@dataclass(frozen=True)
class Stage:
    """One recipe on N nodes, and what the lines share."""

    recipe: Recipe
    cluster: Cluster
    nodes: int
    model: ModelSize
    data: DataSize

    @property
    def ranks(self) -> int:
        return self.nodes * self.cluster.tasks

    @property
    def pairs(self) -> bool:
        return bool(self.recipe.objective.kind == "clip")

    @property
    def micro(self) -> int:
        """Samples of one rank in one micro-batch, b."""
        return int(self.recipe.data.batch_size) // (int(self.recipe.data.accumulation) * self.ranks)

    @property
    def images(self) -> int:
        """Of one sample."""
        return 1 if self.pairs else 3

    @property
    def trained(self) -> int:
        """Parameters that have gradients."""
        return self.model.parameters if self.pairs else self.model.vision.parameters

    @property
    def flops(self) -> int:
        """Of one sample, forward and backward: three times forward."""
        return 3 * (self.model.flops if self.pairs else 3 * self.model.vision.flops)

    @property
    def activations(self) -> int:
        """Bytes a sample."""
        precision = self.recipe.engine.precision
        tower = self.model.vision.activation_bytes(precision)
        return self.model.activation_bytes(precision) if self.pairs else 3 * tower

    @property
    def rate(self) -> float:
        """Samples a second and GPU."""
        return self.cluster.hardware.tflops * 1e12 * self.cluster.hardware.mfu / self.flops

    @property
    def step_seconds(self) -> float:
        return float(self.recipe.data.batch_size) / (self.rate * self.ranks)

    @property
    def batches_an_epoch(self) -> int:
        """Micro-batches of all ranks, cut from whole lanes as data_pipeline.order does."""
        data = self.recipe.data
        return int(self.data.samples // data.lanes // (data.batch_size // data.accumulation // data.lanes))

    @property
    def steps_an_epoch(self) -> float:
        return float(self.batches_an_epoch / self.recipe.data.accumulation)

    @property
    def steps(self) -> int:
        """Of the whole run, as launch.training counts them."""
        schedule = self.recipe.schedule
        return int(schedule.steps or schedule.epochs * self.batches_an_epoch // self.recipe.data.accumulation)

    @property
    def in_memory(self) -> bool:
        """Whether each rank keeps the whole data set once it was read, as data_pipeline.resident does."""
        return self.data.samples * self.data.sample_bytes <= self.recipe.data.memory_gib * GIB / 2

    @property
    def checkpoint_bytes(self) -> int:
        """fp32 weights of the whole model, and Adam's moments of what is trained: 4 P + 8 T."""
        return 4 * self.model.parameters + 8 * self.trained

    @cached_property
    def memory(self) -> list[tuple[str, float, str]]:
        """(what, bytes, formula) of one GPU."""
        engine, b, p, t = self.recipe.engine, self.micro, self.model.parameters, self.trained
        stage = engine.zero_stage if engine.kind == "deepspeed" else 0
        state = state_bytes(p, t, self.ranks, stage)
        shard, moments = f" / {self.ranks} ranks", 12 if stage else 8
        exchanged = min(t, BUCKET) if engine.kind == "deepspeed" else t
        batch, dimension = b * self.ranks, self.model.embed_dim
        lines = [
            ("weights", state["weights"], f"4 P = 4 x {millions(p)}"),
            ("gradients", state["gradients"], f"4 T = 4 x {millions(t)}" + shard * (stage == 2)),
            ("Adam's moments", state["moments"], f"{moments} T = {moments} x {millions(t)}" + shard * (stage > 0)),
            ("activations", float(b * self.activations), f"b a = {b} x {self.activations / 1e6:.1f} MB"),
        ]
        if engine.precision == "bf16":
            lines.insert(1, ("weights in bf16", 2.0 * t, f"2 T = 2 x {millions(t)}, kept by autocast"))
        if self.ranks > 1:
            lines.append(("exchange of gradients", 4.0 * exchanged, f"4 x {millions(exchanged)}"))
        if self.pairs:
            if self.ranks > 1:
                what = f"2 x 2 B d 4 = 16 x {batch} x {dimension}, with gradients"
                lines.append(("gathered features", 2 * gathered_bytes(batch, dimension), what))
            lines.append(("logits", logit_bytes(b, batch), f"2 x 3 x 4 b B = 24 x {b} x {batch}"))
        return lines

    @property
    def memory_bytes(self) -> float:
        """What a rank needs, as if all of it were needed at once."""
        return sum(size for _, size, _ in self.memory)

    @property
    def memory_limit(self) -> float:
        """Bytes: of a GPU; on a CPU the rank's part of the node's memory, less what it reads ahead."""
        hard = self.cluster.hardware
        on_cpu = not self.cluster.gpus_per_node or self.recipe.engine.device == "cpu"
        return GIB * (hard.ram_gib / self.cluster.tasks - self.recipe.data.memory_gib if on_cpu else hard.gpu_gib)
