"""A dense evaluation as JSON and Markdown, and the counts behind it, from which two models are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import replacing
from pineco.evals.report.formats import interval, origin_of, percent, point_interval, points
from pineco.evals.report.markdown import escape, join, table
from pineco.evals.results.baseline import read_baseline_fields
from pineco.evals.results.provenance import Measurement
from pineco.evals.results.results import Interval

if TYPE_CHECKING:
    from pineco.evals.segmentation.miou import Confusions

SCHEMA, SCHEMA_VERSION = "pineco.dense", 1
COUNTS_SUFFIX = ".counts.safetensors"
_PARTS = ("hits", "truth", "predicted", "total")


@dataclass(frozen=True, kw_only=True)
class DenseReport(Measurement):
    """One model on one data set with masks."""

    task: str  # incontext or linear
    data: str
    test_digest: str  # of the test images' keys
    images: dict[str, int]  # by split
    size: int  # pixels of an image's side
    seeds: tuple[int, ...]  # one run each
    metrics: dict[str, float]  # means over the runs, each in [0, 1]
    intervals: dict[str, Interval]  # 95 %, over images
    chance: dict[str, float]  # what the commonest class everywhere scores
    runs: tuple[dict[str, float], ...]  # metrics of each seed
    class_iou: dict[str, float | None]  # mean over the runs; null for a class that does not occur
    settings: dict[str, Any]
    baseline: str | None = None  # the other model, where there is one
    baseline_identity: str | None = None
    differences: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # less the baseline; 95 % interval
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION

    def spread(self, metric: str) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        values = [run[metric] for run in self.runs]
        if len(values) < 2:
            return None
        mean = sum(values) / len(values)
        return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


@dataclass(frozen=True)
class Baseline:
    """Another model's report, as far as a comparison needs it."""

    path: Path
    model: str
    identity: str
    task: str
    test_digest: str
    size: int

    def check(self, *, task: str, test_digest: str, size: int) -> None:
        """Raises InputError where the two would not be measured alike."""
        ours = {"task": task, "test_digest": test_digest, "size": size}
        shown = {"task": "--task", "test_digest": "the test images", "size": "--size"}
        for name, value in ours.items():
            if getattr(self, name) != value:
                raise InputError(f"--baseline {self.path}: {shown[name]} differs; measure both models in the same way")


def read_baseline(path: Path) -> Baseline:
    """Raises InputError for a file that is no report of this version, or lacks its counts."""
    data = read_baseline_fields(path, SCHEMA, SCHEMA_VERSION, counts_path(path))
    names = ("model", "identity", "task", "test_digest", "size")
    if missing := [name for name in names if name not in data]:
        raise InputError(f"--baseline {path}: lacks {', '.join(missing)}; measure that model again")
    return Baseline(path, *(data[name] for name in names))


def counts_path(report: Path) -> Path:
    return report.with_suffix(COUNTS_SUFFIX)


def save_counts(report: Path, runs: Sequence[Confusions]) -> None:
    """Beside the report, a tensor of each part for each run; replaced in one step."""
    from safetensors.numpy import save_file

    parts = {f"{i}.{part}": getattr(run, part) for i, run in enumerate(runs) for part in _PARTS}
    with replacing(counts_path(report)) as temporary:
        save_file(parts, temporary)


def load_counts(report: Path) -> list[Confusions]:
    """The inverse of `save_counts`; raises InputError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from pineco.evals.segmentation.miou import Confusions

    path = counts_path(report)
    try:
        parts = load_file(path)
        runs = [Confusions(*(parts[f"{i}.{part}"] for part in _PARTS)) for i in range(len(parts) // len(_PARTS))]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: no counts of ours, or damaged ({error}); measure that model again") from None
    if not runs or any(run.hits.shape != runs[0].truth.shape for run in runs):
        raise InputError(f"{path}: no counts of ours; measure that model again")
    return runs


def markdown(report: DenseReport, picture: str) -> str:
    """picture: name of the picture beside it."""
    title = {"incontext": "In-context segmentation", "linear": "Linear segmentation"}[report.task]
    about = f"{_seeds(report)} The interval is a bootstrap over test images; chance is the commonest class."
    classes = [(name, percent(value)) for name, value in report.class_iou.items()]
    return join(
        [
            f"# {title}: {escape(report.model)}",
            table(("metric", "value", "95 %", "chance", "spread of seeds"), _figures(report), left=1),
            about,
            _differences(report),
            f"## Classes\n\n{table(('class', 'IoU'), classes, left=1)}",
            f"![test images, truth and prediction]({picture})",
            f"## Origin\n\n{table(('', ''), _origin(report).items(), left=2)}",
        ]
    )


def _differences(report: DenseReport) -> str:
    """Empty without a baseline."""
    if report.baseline is None:
        return ""
    rows = [(name, points(d[0]), point_interval((d[1], d[2]))) for name, d in report.differences.items()]
    head = ("metric", "difference", "95 %")
    return f"## Against {escape(report.baseline)}, in points\n\n{table(head, rows, left=1)}"


def _figures(report: DenseReport) -> list[tuple[str, ...]]:
    return [
        (
            name,
            percent(value),
            interval(report.intervals.get(name)),
            percent(report.chance.get(name)),
            percent(report.spread(name)),
        )
        for name, value in report.metrics.items()
    ]


def _seeds(report: DenseReport) -> str:
    return f"Mean of {len(report.seeds)} seeds." if len(report.seeds) > 1 else "One run."


def _origin(report: DenseReport) -> Mapping[str, str]:
    details = {
        "data": report.data,
        "images": ", ".join(f"{name} {number:,}" for name, number in report.images.items()),
        "size": f"{report.size} x {report.size}",
        "seeds": ", ".join(map(str, report.seeds)),
        "settings": ", ".join(f"{name} {value}" for name, value in report.settings.items()),
    }
    return origin_of(report, details)
