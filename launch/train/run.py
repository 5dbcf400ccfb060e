"""pineco train RECIPE [key=value ...]: trains a recipe here, evaluates its checkpoints, writes a report.

Under torchrun (or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT) each process is one
rank of the run. Exit codes: 0 done, 2 bad input (one line says what and how to mend it), 130 interrupted, resumable.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pineco.data_pipeline.files import user_path
from pineco.launch.exits import INTERRUPTED
from pineco.pretrain.recipe.load import load_init_recipe, load_recipe, recipe_yaml


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pineco train",
        description="Train a recipe on this machine, evaluate its checkpoints, write a report.",
        epilog="pineco recipes lists the recipes, pineco recipes NAME explains every setting of one.",
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. schedule.epochs=2 init=random")
    parser.add_argument(
        "--run-dir", type=user_path, help="where everything is written (default: runs/NAME of the recipe)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)  # under pineco.launch.job.supervise
    parser.add_argument("--check", action="store_true", help="validate, print the resolved recipe, and stop")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    recipe = load_recipe(options.recipe, options.overrides)
    if recipe.init != "random" and recipe.init_checkpoint is None:
        load_init_recipe(recipe)
    if options.check:
        print(recipe_yaml(recipe), end="")
        return 0
    from pineco.launch.train.training import train  # imports torch, so only now

    directory = options.run_dir or Path("runs") / recipe.name
    try:
        interrupted = train(recipe, directory, resume=options.resume, job=options.job)
    except KeyboardInterrupt:
        print("pineco: stopped; what was saved is complete, the same command with --resume goes on", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        error.filename = error.filename or str(directory)  # a write to a full disk names no file
        raise
    if interrupted is None:
        return 0
    print(f"pineco: {interrupted}; {_how_to_continue(options, directory)}", file=sys.stderr)
    return INTERRUPTED


def _how_to_continue(options: argparse.Namespace, directory: Path) -> str:
    """Name the command that continues the run; for a job not `pineco train`, which would run on the login node."""
    if options.job:
        return f"unless its job comes back by itself, go on with: make resume RUN={directory}"
    program = ["pineco"] if shutil.which("pineco") else [sys.executable, "-m", "pineco"]
    command = [*program, "train", options.recipe, *options.overrides, "--run-dir", str(directory)]
    return f"go on with: {shlex.join(command)} --resume"
