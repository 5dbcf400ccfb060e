"""A 2AFC evaluation as JSON and Markdown, and the distances behind it, from which two models are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import replacing
from pineco.evals.report.formats import interval, origin_of, percent, point_interval, points
from pineco.evals.report.markdown import escape, join, table
from pineco.evals.report.plots import Agreement, JudgedSplit
from pineco.evals.results.baseline import read_baseline_fields
from pineco.evals.results.provenance import Measurement
from pineco.evals.triplets.choices import CHANCE, OF_PEOPLE, Choices, Figure, ShareBin

if TYPE_CHECKING:
    from pineco.evals.results.draws import Difference

SCHEMA, SCHEMA_VERSION = "pineco.triplets", 1
DISTANCES_SUFFIX = ".distances.safetensors"

_SAID = {
    "two_afc": "2AFC",
    "two_afc_imagenet": "2AFC, ImageNet part",
    "two_afc_no_imagenet": "2AFC, other part",
    "accuracy": "agreement with the majority",
    "best_choice": "best possible on these votes",
    "held_out_voter": "majority of the others, on a voter left out",
}
_READING = (
    "2AFC: the mean share of people who chose the image that the model finds nearer; chance is 50 %, and a triplet of "
    "which people are undecided gives one half to any model. Agreement with the majority leaves those out. Best "
    "possible is the 2AFC of a chooser who knows these votes; on new votes of the same people nobody expects as much. "
    "The majority of the others is a chooser who knows all votes but the one that it is measured on, so what can be "
    "reached on new votes lies between the two. Intervals are a bootstrap over triplets, and one over reference images "
    "with all their triplets."
)


@dataclass(frozen=True)
class SplitReport:
    """One model on one split."""

    triplets: int  # that were measured
    few_votes: int  # rows of the split that have fewer than min_votes, and were left out
    undecided: int  # measured triplets with a share of one half
    equal_distances: int  # measured triplets of which the model found no image nearer
    votes: dict[str, int]  # measured triplets by number of votes
    votes_digest: str
    images_digest: str
    figures: dict[str, Figure]
    by_share: tuple[ShareBin, ...]
    differences: dict[str, Difference] = field(default_factory=dict)  # less the baseline; triplets are drawn
    differences_by_reference: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TripletReport(Measurement):
    """One model on one set of triplets."""

    features: tuple[str, ...]  # one for each backbone
    mean_centre: bool
    image_size: int
    width: int  # of the vectors that are compared
    data: str
    min_votes: int
    splits: dict[str, SplitReport]
    draws: int
    baseline: str | None = None  # the other model, where there is one
    baseline_identity: str | None = None
    chance: float = CHANCE
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = super().to_dict()
        for split, report in zip(found["splits"].values(), self.splits.values(), strict=True):
            for name in ("differences", "differences_by_reference"):  # named tuples become lists else
                split[name] = {key: gap._asdict() for key, gap in getattr(report, name).items()}
        return found


@dataclass(frozen=True)
class Baseline:
    """Another model's report, as far as a comparison needs it."""

    path: Path
    model: str
    identity: str
    digests: dict[str, tuple[str, str]]  # by split: of the votes, of the images

    def check_votes(self, split: str, digest: str) -> None:
        """Raises InputError where the two would not be asked about the same triplets."""
        if split not in self.digests:
            known = ", ".join(self.digests)
            raise InputError(f"--baseline {self.path}: has no split {split!r}, only {known}; measure it there, too")
        if self.digests[split][0] != digest:
            raise InputError(f"--baseline {self.path}: other rows of {split!r}; use the same --data and --min-votes")

    def check_images(self, split: str, digest: str) -> None:
        if self.digests[split][1] != digest:
            raise InputError(f"--baseline {self.path}: other images in {split!r}; measure both models on the same data")


def read_baseline(path: Path) -> Baseline:
    """Raises InputError for a file that is no report of this version, or lacks its distances."""
    data = read_baseline_fields(path, SCHEMA, SCHEMA_VERSION, distances_path(path))
    try:
        digests = {name: (one["votes_digest"], one["images_digest"]) for name, one in data["splits"].items()}
        return Baseline(path, data["model"], data["identity"], digests)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--baseline {path}: damaged ({error!r}); measure that model again") from None


def votes_digest(right_vote: np.ndarray, votes: np.ndarray) -> str:
    """Of what was asked, without the images: it is known before any is read."""
    return f"sha256:{hashlib.sha256(right_vote.astype('<f4').tobytes() + votes.astype('<i8').tobytes()).hexdigest()}"


def distances_path(report: Path) -> Path:
    return report.with_suffix(DISTANCES_SUFFIX)


def save_distances(report: Path, splits: Mapping[str, Choices]) -> None:
    """Beside the report, a tensor of each part for each split; replaced in one step."""
    from safetensors.numpy import save_file

    parts = {
        f"{split}/{part.name}": np.ascontiguousarray(getattr(choices, part.name))
        for split, choices in splits.items()
        for part in fields(Choices)
    }
    with replacing(distances_path(report)) as temporary:
        save_file(parts, temporary)


def load_distances(report: Path, split: str) -> Choices:
    """The inverse of `save_distances`; raises InputError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = distances_path(report)
    try:
        parts = load_file(path)
        found = Choices(*(parts[f"{split}/{part.name}"] for part in fields(Choices)))
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: no distances of ours, or damaged ({error}); measure that model again") from None
    if any(getattr(found, part.name).shape != found.left.shape for part in fields(Choices)):
        raise InputError(f"{path}: no distances of ours; measure that model again")
    return found


def markdown(report: TripletReport, picture: str) -> str:
    """picture: name of the picture beside it."""
    return join(
        [
            f"# Triplets: {escape(report.model)}",
            *(_split(name, split, report) for name, split in report.splits.items()),
            _READING,
            f"![2AFC with its limits; agreement with the majority by its share]({picture})",
            f"## Origin\n\n{table(('', ''), _origin(report).items(), left=2)}",
        ]
    )


def judged(
    number: int, model: str, split: str, figures: Mapping[str, Figure], by_share: Sequence[ShareBin]
) -> JudgedSplit:
    """One model on one split, as `pineco.evals.report.plots.draw_triplets` shows it."""
    limits = {name: figures[name].value if name in figures else None for name in OF_PEOPLE}
    shares = tuple(Agreement(one.share, one.agreement.value, one.agreement.interval) for one in by_share)
    two_afc = figures["two_afc"]
    return JudgedSplit(number, model, split, two_afc.value, two_afc.interval, by_share=shares, **limits)


def _split(name: str, split: SplitReport, report: TripletReport) -> str:
    counted = f"{split.triplets:,} triplets"
    if split.few_votes:
        counted += f" ({split.few_votes:,} more have fewer than {report.min_votes} votes and were left out)"
    counted += f", {split.undecided:,} of them undecided; the model found {split.equal_distances:,} equally far."
    rows = [_row(key, figure) for key, figure in split.figures.items()]
    parts = [
        f"## {escape(name)}",
        counted,
        table(("", "value", "95 %", "95 %, by reference", "triplets"), rows, left=1),
    ]
    shares = [(f"{100 * b.low:.0f} to {100 * b.high:.0f} %", *_row("", b.agreement)[1:]) for b in split.by_share]
    if shares:
        head = ("the majority's share", "agreement", "95 %", "95 %, by reference", "triplets")
        parts.append(table(head, shares, left=1))
    if report.baseline is not None:
        gaps = [_gap(key, gap, split.differences_by_reference[key]) for key, gap in split.differences.items()]
        parts.append(f"Against {escape(report.baseline)}, in points:")
        parts.append(table(("", "difference", "95 %", "95 %, by reference"), gaps, left=1))
    return join(parts)


def _row(key: str, figure: Figure) -> Sequence[str]:
    sure = (interval(figure.interval), interval(figure.by_reference))
    return said(key), percent(figure.value), *sure, f"{figure.triplets:,}"


def _gap(key: str, gap: Difference, other: Difference) -> Sequence[str]:
    return said(key), points(gap.value), point_interval(gap[1:]), point_interval(other[1:])


def said(key: str) -> str:
    """A figure's name for people; those of people are said to be."""
    name = _SAID.get(key, key)
    return f"people: {name}" if key in OF_PEOPLE else name


def _origin(report: TripletReport) -> Mapping[str, Any]:
    details = {
        "features": ", ".join(report.features) + (", each centred" if report.mean_centre else ""),
        "width": f"{report.width:,}",
        "size": f"{report.image_size} x {report.image_size}",
        "data": report.data,
        "votes at least": str(report.min_votes),
    }
    return origin_of(report, details)
