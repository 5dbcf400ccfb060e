"""Human similarity triplets in NIGHTS' layout: data.csv beside the images it names."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_pipeline.batches import TripletBatch
from data_pipeline.decode import DecodeError, decode_image
from data_pipeline.errors import InputError
from data_pipeline.order import Extents
from data_pipeline.randomness import Stream, permutation
from data_pipeline.transforms import resize_square, to_tensor

COLUMNS = ("id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split")


@dataclass(frozen=True)
class Triplet:
    reference: str  # paths relative to the folder of data.csv
    left: str
    right: str
    right_vote: float  # in [0, 1]


class TripletSource:
    """Loads triplets by number.

    min_votes: rows with fewer votes are dropped (NIGHTS keeps 6 or more); `dropped` counts them and the ties.
    shuffled: the control. The votes are dealt out anew among the rows that were kept: same images, same balance of
    left and right, no judgement left in them.
    """

    def __init__(
        self, root: str, *, image_size: int, split: str, min_votes: int, seed: int, shuffled: bool = False
    ) -> None:
        self.root, self.image_size = Path(root), image_size
        rows = _read_rows(self.root / "data.csv", split)
        kept = [triplet for triplet, votes in rows if votes >= min_votes and triplet.right_vote != 0.5]
        self.dropped = len(rows) - len(kept)
        if not kept:
            raise InputError(f"{self.root / 'data.csv'}: split {split!r} has no row with {min_votes} votes or more")
        for path in sorted({p for t in kept for p in (t.reference, t.left, t.right)}):
            if not (self.root / path).is_file():
                raise InputError(f"{self.root / 'data.csv'}: names {path}, which is not there")
        self._triplets = kept
        votes = np.array([t.right_vote for t in kept], np.float32)
        self._votes = votes[permutation(len(kept), seed, Stream.SHUFFLED_VOTES)] if shuffled else votes

    def __len__(self) -> int:
        return len(self._triplets)

    def extents(self, lanes: int) -> Extents:
        """Every triplet by itself: they are separate files."""
        return Extents(np.arange(len(self), dtype=np.int64), np.ones(len(self), np.int64))

    def load(self, samples: np.ndarray, epoch: int) -> TripletBatch:
        """samples: (B,) row numbers; no augmentation, as published, so that `epoch` changes nothing."""
        rows = [self._triplets[int(number)] for number in samples]
        sides = [[t.reference for t in rows], [t.left for t in rows], [t.right for t in rows]]
        reference, left, right = (torch.stack([self._image(path) for path in side]) for side in sides)
        return TripletBatch(reference, left, right, torch.from_numpy(self._votes[samples]), torch.from_numpy(samples))

    def _image(self, path: str) -> Tensor:
        try:
            return resize_square(to_tensor(decode_image((self.root / path).read_bytes())), self.image_size)
        except DecodeError as error:
            raise InputError(f"{self.root / path}: {error}") from None


def _read_rows(path: Path, split: str) -> list[tuple[Triplet, int]]:
    """(triplet, number of votes) of every row of a split, checked."""
    if not path.is_file():
        raise InputError(f"{path}: not there; the folder of triplets must hold NIGHTS' data.csv")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: lacks the columns {', '.join(missing)}")
        every = [(row["split"], *_parse_row(row, f"{path}: line {reader.line_num}")) for row in reader]
    rows = [(triplet, votes) for of, triplet, votes in every if of == split]
    if not rows:
        raise InputError(f"{path}: no split {split!r}; it has {', '.join(sorted({r[0] for r in every})) or 'no rows'}")
    return rows


def _parse_row(row: dict[str, str], where: str) -> tuple[Triplet, int]:
    if any(row[column] is None for column in COLUMNS):
        raise InputError(f"{where}: fewer fields than columns; the file was cut")
    try:
        right_vote, votes = float(row["right_vote"]), int(float(row["votes"]))
    except (OverflowError, ValueError):
        raise InputError(f"{where}: right_vote or votes is no number") from None
    if not 0 <= right_vote <= 1:
        raise InputError(f"{where}: right_vote is {right_vote}, outside [0, 1]")
    reference, left, right = row["ref_path"], row["left_path"], row["right_path"]
    for path in (reference, left, right):
        if not path or Path(path).is_absolute() or ".." in Path(path).parts:
            raise InputError(f"{where}: path {path!r} must be relative and stay inside the folder")
    return Triplet(reference, left, right, right_vote), votes
