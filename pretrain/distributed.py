"""Ranks: who this process is, and the few collectives that training needs. Tensors only, never objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pineco.data_pipeline.errors import InputError


@dataclass(frozen=True)
class RankInfo:
    """An argument, never a global. `world` is 1 and no process group exists when a run has a single process."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """The rank that writes files and prints."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RankInfo:
        """From RANK, WORLD_SIZE and LOCAL_RANK as torchrun sets them; one process where they are absent."""
        rank, world, local = (int(environment.get(k, d)) for k, d in
                              (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))  # fmt: skip
        return cls(rank, world, local)


def pick_device(setting: str, ranks: RankInfo) -> torch.device:
    """The device of this rank; `auto` is CUDA where there is one."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if ranks.local_rank >= torch.cuda.device_count():
        visible = f"{torch.cuda.device_count()} are visible"
        raise InputError(f"engine.device is {setting}: rank {ranks.rank} wants GPU {ranks.local_rank}, {visible}")
    return torch.device("cuda", ranks.local_rank)


def start_process_group(ranks: RankInfo, device: torch.device, timeout: timedelta = timedelta(minutes=30)) -> None:
    """NCCL on CUDA, gloo on CPU; the address comes from MASTER_ADDR and MASTER_PORT, one process needs none."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.HashStore() if ranks.world == 1 else None
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=timeout)


def gather_with_grad(features: Tensor, ranks: RankInfo) -> Tensor:
    """(B, D) of every rank -> (world * B, D) in rank order; the gradient returns to the rank it belongs to."""
    return features if ranks.world == 1 else _Gather.apply(features, ranks)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, ranks: RankInfo) -> Tensor:
        ctx.ranks, ctx.rows = ranks, features.shape[0]
        parts = [torch.empty_like(features) for _ in range(ranks.world)]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Every rank's loss depends on these features, so their gradients are summed over ranks."""
        total = grads[0].contiguous()
        if dist.get_backend() == "nccl":
            own = total.new_empty((ctx.rows, *total.shape[1:]))
            dist.reduce_scatter_tensor(own, total)
            return own, None
        total = total.clone()
        dist.all_reduce(total)
        return total[ctx.ranks.rank * ctx.rows : (ctx.ranks.rank + 1) * ctx.rows], None


def mean_over_ranks(values: Tensor, ranks: RankInfo) -> Tensor:
    if ranks.world == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / ranks.world


def any_rank(flag: bool, ranks: RankInfo, device: torch.device) -> bool:
    """True on every rank as soon as it is True on one, so that all leave the loop at the same step."""
    if ranks.world == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def barrier(ranks: RankInfo) -> None:
    if ranks.world > 1:
        dist.barrier()
