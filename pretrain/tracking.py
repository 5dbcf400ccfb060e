"""Where scalars go besides metrics.jsonl: TensorBoard, and Weights & Biases where a recipe names a project."""

from __future__ import annotations

import importlib.util
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.recipe.settings import Recipe
from pineco.pretrain.run_files import TENSORBOARD

_ID = "wandb_id"  # in the run directory: the same for every start of a run, so that a requeue is no new run


def check_tracking(recipe: Recipe) -> None:
    """InputError where the recipe asks for what is not installed."""
    if recipe.tracking.wandb is not None and importlib.util.find_spec("wandb") is None:
        what = f"{recipe.name}: tracking.wandb is {recipe.tracking.wandb}"
        raise InputError(f"{what}, but wandb is not installed: pip install 'pineco[wandb]', or set it to null")


class Board:
    """One stage's scalars. `part`: of the run that writes, e.g. evaluation, which may do so beside training."""

    def __init__(self, folder: Path, recipe: Recipe, *, part: str = "train", purge_step: int | None = None) -> None:
        """folder: run directory. purge_step: what an earlier start wrote from this step on is taken again."""
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=purge_step)
        self._wandb: Any = None
        if recipe.tracking.wandb is not None:
            self._wandb = _wandb_run(folder, recipe, part)

    def add(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def close(self) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def run_id(folder: Path) -> str:
    """Of the run in a directory, made when it is first asked for."""
    path, mine = folder / _ID, uuid.uuid4().hex[:8]
    draft = folder / f".{_ID}.{mine}"
    draft.write_text(mine)
    with suppress(FileExistsError):  # whoever is first decides, and nobody reads half of it
        os.link(draft, path)
    draft.unlink()
    return path.read_text()


def _wandb_run(folder: Path, recipe: Recipe, part: str) -> Any:
    import wandb  # type: ignore[import-not-found, unused-ignore]  # an optional dependency

    identity = run_id(folder)
    return wandb.init(
        project=recipe.tracking.wandb,
        id=identity if part == "train" else f"{identity}-{part}",
        group=identity,
        job_type=part,
        name=f"{recipe.name}-{part}" if part != "train" else recipe.name,
        dir=str(folder),
        config={"recipe": recipe.name, "seed": recipe.seed, "init": recipe.init},
        resume="allow",
    )
