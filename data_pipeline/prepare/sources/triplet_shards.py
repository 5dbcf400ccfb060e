"""Triplets of any source: every distinct image is one sample, and one table says which samples make a triplet.

Images stand in the order in which triplets first need them, so that one ranged read fetches a run of triplets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.job import Beside, Fingerprint, Made, Part, Reject, slices
from pineco.data_pipeline.prepare.outcome import Kept, Outcome, Rejected, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules, check_image
from pineco.data_pipeline.prepare.samples.twins import first_twins
from pineco.data_pipeline.prepare.sources.image_source import Files, ImageSource
from pineco.data_pipeline.prepare.sources.judgements import Judgements, write_table
from pineco.data_pipeline.triplets.table import TABLE


@dataclass(frozen=True)
class TripletShards:
    kind: str
    root: Path  # for messages
    images: ImageSource
    paths: tuple[str, ...]  # (M,) of the images that are stored
    rows: Judgements  # whose images are numbers of `paths`
    rules: ImageRules
    shard_size: int
    more_options: Mapping[str, object]
    source: Fingerprint
    rejected: tuple[Rejected, ...]
    parts: tuple[Part, ...]

    @property
    def options(self) -> Mapping[str, object]:
        return asdict(self.rules) | {"shard_size": self.shard_size} | dict(self.more_options)

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        start = part.number * self.shard_size
        for path in self.paths[start : start + self.shard_size]:
            try:
                checked = check_image(self.images.read(path), self.rules)
                yield Kept({checked.extension: checked.data})
            except RejectError as error:
                yield error.at(path)

    def finish(self, made: Sequence[Made], scratch: Path, reject: Reject) -> Iterator[Beside]:
        """Raises InputError where no triplet has kept its images."""
        if not write_table(scratch / TABLE, self.rows, sample_numbers(made), reject):
            raise InputError(f"{self.root}: no triplet is left, because images of all of them were rejected")
        yield TABLE, scratch / TABLE


def sample_numbers(made: Sequence[Made]) -> np.ndarray:
    """(items,) int64: the number of each item's sample over all shards, -1 for what was rejected."""
    kept = np.ones(sum(part.items for part in made), bool)
    begin = 0
    for part in made:
        kept[begin + np.array(part.lost, np.int64)] = False
        begin += part.items
    return np.where(kept, np.cumsum(kept) - 1, -1)


def triplet_shards(
    kind: str,
    root: Path,
    paths: Sequence[str],
    rows: Judgements,
    rules: ImageRules,
    shard_size: int,
    *,
    source: Fingerprint,
    rejected: Sequence[Rejected] = (),
    options: Mapping[str, object] | None = None,
    threads: int = 1,
    images: ImageSource | None = None,
    twins: np.ndarray | None = None,
) -> TripletShards:
    """rows.images are numbers of `paths`; images that are the same file, or copies of it, become one sample.

    root: resolved. images: files below root where there is none. twins: of `first_twins`, where it was called already.
    """
    if not len(rows):
        why = f" ({rejected[0].path}: {rejected[0].reason}, first of all)" if rejected else ""
        raise InputError(f"{root}: no triplet can be used{why}")
    images = images or Files(root)
    first = (first_twins(images, paths, threads) if twins is None else twins)[rows.images]
    distinct, need, place = np.unique(first.ravel(), return_index=True, return_inverse=True)
    order = np.argsort(need)  # of the distinct images, by their first need
    rank = np.argsort(order)
    numbers = rank[place].reshape(rows.images.shape).astype(np.int32)
    stored = tuple(paths[number] for number in distinct[order])
    return TripletShards(
        kind=kind,
        root=root,
        images=images,
        paths=stored,
        rows=replace(rows, images=numbers),
        rules=rules,
        shard_size=shard_size,
        more_options=options or {},
        source=source,
        rejected=tuple(rejected),
        parts=slices(len(stored), shard_size, "images"),
    )
