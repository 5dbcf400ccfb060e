"""Stand-ins where a measurement wants a model: they have the parts that it uses, and no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pineco.evals.models.model import Model
from pineco.evals.results.results import EvalReport
from pineco.evals.zeroshot import suite
from pineco.evals.zeroshot.suite import How, Progress
from tests.support.coloured_sets import ColourEncoder
from tests.support.segmentation_sets import ColourPatches


def as_model(stand_in: ColourEncoder | ColourPatches) -> Model:
    return cast(Model, stand_in)


def evaluate(
    model: Model | ColourEncoder,
    data_root: Path,
    tasks: str | Sequence[str],
    how: How = How(),
    *,
    progress: Progress = lambda what, done, of: None,
) -> EvalReport:
    """The suite's, for stand-ins too."""
    return suite.evaluate(
        as_model(model) if isinstance(model, ColourEncoder) else model, data_root, tasks, how, progress=progress
    )
