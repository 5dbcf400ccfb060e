"""Several ranks over gloo on one machine: run_ranks(function, world, *arguments) -> the results in rank order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pineco.pretrain.distributed import RankInfo
from tests.support.processes import quick_processes

TINY_CLIP = str(Path(__file__).parent / "tiny_clip.json")


def run_ranks(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """`function(ranks, *arguments)` in `world` processes that form one gloo group; module-level functions only.

    The processes stay for the next call: importing torch and DeepSpeed takes longer than any of these tests.
    """
    futures = [
        pool.submit(function, RankInfo(rank, world, rank), *arguments) for rank, pool in enumerate(_group(world))
    ]
    return [future.result(timeout=300) for future in futures]


@cache
def _group(world: int) -> list[ProcessPoolExecutor]:
    context = quick_processes()
    store = str(Path(tempfile.mkdtemp()) / "store")
    return [
        ProcessPoolExecutor(1, mp_context=context, initializer=_join, initargs=(rank, world, store))
        for rank in range(world)
    ]


def _join(rank: int, world: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
