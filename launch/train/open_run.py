"""The run directory: what was asked for, which code ran, what happened.

RUN/recipe.yaml  code.jsonl  run.log  metrics.jsonl  tensorboard/  checkpoints/  reports/  report.{md,json}  init/
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.evals.results.provenance import commit, hardware, versions
from pineco.pretrain.checkpoint import list_checkpoints
from pineco.pretrain.recipe.load import first_difference, load_recipe, recipe_yaml
from pineco.pretrain.recipe.settings import Recipe

logger = logging.getLogger("pineco.launch")
_OURS = ("job", "init", "lease.json", ".lease_")  # what may be there before a run is opened begins with one of these


def check_run_dir(directory: Path, recipe: Recipe, *, resume: bool) -> None:
    """Refuses a directory that holds another recipe, no run at all, or an unfinished run without `resume`."""
    saved = directory / "recipe.yaml"
    if saved.is_file():
        difference = first_difference(recipe, load_recipe(str(saved)))
        if difference is not None:
            raise InputError(f"{directory}: holds a run of another recipe ({difference}); pass --run-dir for a new one")
        step = max((c.step for c in list_checkpoints(directory / "checkpoints")), default=0)
        if step and not resume:
            raise InputError(f"{directory}: holds a run that stands at step {step}; add --resume, or a new --run-dir")
    elif directory.exists() and any(not path.name.startswith(_OURS) for path in directory.iterdir()):
        raise InputError(f"{directory}: exists and holds no run; pass another --run-dir")


def open_run(directory: Path, recipe: Recipe, *, device: torch.device, ranks: int) -> None:
    """Creates the directory, and writes down what starts here and now."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text_atomically(directory / "recipe.yaml", recipe_yaml(recipe))
    code = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "device": hardware(device),
        "ranks": ranks,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    with (directory / "code.jsonl").open("a") as file:  # one line a start, so that a resume by other code shows
        file.write(json.dumps(code) + "\n")


def log_to(directory: Path) -> logging.Handler:
    """Sends our messages to run.log as well; the caller removes the handler when the stage ends."""
    handler = logging.FileHandler(directory / "run.log")
    formatter = logging.Formatter("%(asctime)s %(message)s")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return handler
