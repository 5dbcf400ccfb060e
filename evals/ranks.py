"""Processes that share an evaluation, one a GPU, and how what they found comes together. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pineco.data_pipeline.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """Which of them this process is. One alone needs no process group."""

    rank: int = 0
    world: int = 1
    local: int = 0  # its number on this node, which is that of its GPU

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def owns(self, block: int) -> bool:
        """Whether the work with this number is this process's."""
        return block % self.world == self.rank

    def gather(self, rows: Tensor) -> Tensor:
        """(n, ...) rows on the CPU, of which each process has its own n, to all rows: those of rank 0 first.

        Every process must call it. One that has no rows at all passes (0, 0).
        """
        if self.world == 1:
            return rows
        shapes = self._all(torch.tensor(rows.shape))
        width = torch.stack(shapes).amax(dim=0)
        padded = rows.new_zeros(width.tolist())
        padded[tuple(slice(0, size) for size in rows.shape)] = rows
        return torch.cat([part[: int(shape[0])] for part, shape in zip(self._all(padded), shapes, strict=True)])

    def gather_json(self, value: Any) -> list[Any]:
        """What JSON can hold, of every process, in the order of ranks."""
        if self.world == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [int(size) for size in self._all(torch.tensor(len(data)))]
        texts = self.gather(data).split(sizes)
        return [json.loads(bytes(text.tolist())) for text in texts]

    def _all(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor)
        return parts


def agree(ranks: Ranks, work: Callable[[], None]) -> None:
    """Does the work; an InputError in any process is raised in all, so that none waits for one that gave up."""
    said: str | None = None
    try:
        work()
    except InputError as error:
        said = str(error)
    for line in ranks.gather_json(said):
        if line is not None:
            raise InputError(line)


@contextmanager
def ranks_of_environment() -> Iterator[Ranks]:
    """Those that torchrun or srun started, as its variables say; this process alone where there are none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), world, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
