"""What one recipe asks of N nodes: batches, bytes, FLOPs and seconds, as formulas. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pineco.launch.cluster import Cluster
from pineco.launch.plan.data_size import DataSize
from pineco.launch.plan.model_size import BUCKET, GIB, millions, state_bytes
from pineco.launch.plan.workload import Amount, Work
from pineco.pretrain.recipe.settings import Recipe


@dataclass(frozen=True)
class Stage:
    """One recipe on N nodes, and what the lines share."""

    recipe: Recipe
    cluster: Cluster
    nodes: int
    work: Work
    data: DataSize

    @property
    def ranks(self) -> int:
        return self.nodes * self.cluster.tasks

    @property
    def micro(self) -> int:
        """Samples of one rank in one micro-batch, b."""
        return self.recipe.data.batch_size // (self.recipe.data.accumulation * self.ranks)

    @property
    def rate(self) -> float:
        """Samples a second and GPU."""
        return self.cluster.hardware.tflops * 1e12 * self.cluster.hardware.mfu / self.work.flops

    @property
    def step_seconds(self) -> float:
        return self.recipe.data.batch_size / (self.rate * self.ranks)

    @property
    def batches_an_epoch(self) -> int:
        """Micro-batches of all ranks, cut from whole lanes as pineco.data_pipeline.order does."""
        data = self.recipe.data
        return self.data.samples // data.lanes // (data.batch_size // data.accumulation // data.lanes)

    @property
    def steps_an_epoch(self) -> float:
        return self.batches_an_epoch / self.recipe.data.accumulation

    @property
    def steps(self) -> int:
        """Of the whole run, as pineco.launch.train.training counts them."""
        schedule = self.recipe.schedule
        return schedule.steps or schedule.epochs * self.batches_an_epoch // self.recipe.data.accumulation

    @property
    def in_memory(self) -> bool:
        """Each rank keeps the whole data set once it was read, as `data_pipeline.reading.resident` does."""
        return self.data.samples * self.data.sample_bytes <= self.recipe.data.memory_gib * GIB / 2

    @property
    def checkpoint_bytes(self) -> float:
        """fp32 weights of all that the engine holds, Adam's moments of what is trained, and what else is kept."""
        kept = self.work.kept.value if self.work.kept else 0
        return 4 * self.work.parameters + 8 * self.work.trained + kept

    @cached_property
    def memory(self) -> list[Amount]:
        """Bytes of one GPU."""
        engine, b, p, t, a = (
            self.recipe.engine,
            self.micro,
            self.work.parameters,
            self.work.trained,
            self.work.activations,
        )
        stage = engine.zero_stage if engine.kind == "deepspeed" else 0
        state = state_bytes(p, t, self.ranks, stage)
        shard, moments = f" / {self.ranks} ranks", 12 if stage else 8
        exchanged = min(t, BUCKET) if engine.kind == "deepspeed" else t
        lines = [
            Amount("weights", state["weights"], f"4 P = 4 x {millions(p)}"),
            Amount("gradients", state["gradients"], f"4 T = 4 x {millions(t)}" + shard * (stage == 2)),
            Amount(
                "Adam's moments", state["moments"], f"{moments} T = {moments} x {millions(t)}" + shard * (stage > 0)
            ),
            Amount("activations", float(b * a), f"b a = {b} x {a / 1e6:.1f} MB"),
        ]
        if engine.precision == "bf16":
            lines.insert(1, Amount("weights in bf16", 2.0 * t, f"2 T = 2 x {millions(t)}, kept by autocast"))
        if self.ranks > 1:
            lines.append(Amount("exchange of gradients", 4.0 * exchanged, f"4 x {millions(exchanged)}"))
        return [*lines, *self.work.memory(b, self.ranks)]

    @property
    def memory_bytes(self) -> float:
        """What a rank needs, as if all of it were needed at once."""
        return sum(part.value for part in self.memory)

    @property
    def memory_limit(self) -> float:
        """Bytes: of a GPU; on a CPU the rank's part of the node's memory, less what it reads ahead."""
        hard = self.cluster.hardware
        on_cpu = not self.cluster.gpus_per_node or self.recipe.engine.device == "cpu"
        return GIB * (hard.ram_gib / self.cluster.tasks - self.recipe.data.memory_gib if on_cpu else hard.gpu_gib)
