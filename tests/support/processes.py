"""Fresh processes that start in milliseconds: a fork server imports torch, open_clip and DeepSpeed once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOAD = ["torch", "open_clip", "deepspeed", "pineco.launch.train.training", "pineco.pretrain.objectives.clip"]


def quick_processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def start_run(arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> BaseProcess:
    """`pineco train ARGUMENTS` in a process of its own, its output appended to `log`."""
    process = quick_processes().Process(target=_run, args=(arguments, log, environment or {}))
    process.start()
    return process


def _run(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    import torch

    from pineco.launch.train.run import main

    torch.set_num_threads(1)
    code = main(arguments)
    sys.stdout.flush()
    sys.exit(code)
