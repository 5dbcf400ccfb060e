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

USUAL = How()


def as_model(stand_in: ColourEncoder | ColourPatches) -> Model:
    """The same object, typed as the model that it stands in for."""
    return cast(Model, stand_in)


def evaluate(
    model: Model | ColourEncoder,
    data_root: Path,
    tasks: str | Sequence[str],
    how: How = USUAL,
    *,
    progress: Progress = lambda what, done, of: None,
) -> EvalReport:
    """Measure as the suite does; `model` may be a stand-in."""
    encoder = as_model(model) if isinstance(model, ColourEncoder) else model
    return suite.evaluate(encoder, data_root, tasks, how, progress=progress)
