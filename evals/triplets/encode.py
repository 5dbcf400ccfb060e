"""One pass of the images of triplets through a model: every distinct image once, then the distances."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.decode import DecodeCounts
from pineco.data_pipeline.images.image_text import read_image
from pineco.data_pipeline.reading.reader import Members, RowReader, SampleError, owned
from pineco.data_pipeline.triplets.table import TripletTable
from pineco.evals.batching import ahead, allocate
from pineco.evals.data.samples import BadSampleError, Problems
from pineco.evals.models.perceptual import PerceptualModel, cosine_distance
from pineco.evals.triplets.scores import Choices

_READ = 64  # images that are asked for together: neighbours come in one range
_COMPARED = 4096  # triplets at a time, so that their features take some tens of megabytes
_DIGEST = 16  # bytes

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class How:
    """What does not change the figures, but for the last bits of float32."""

    batch_size: int = 32
    threads: int = 4
    memory: int = 4 << 30  # bytes of features; beyond that they go to a temporary file
    progress: Progress = lambda what, done, of: None


@dataclass(frozen=True)
class Measured:
    """One split."""

    choices: Choices
    digest: str  # of the bytes of the images of all triplets, in order


def measure(
    model: PerceptualModel, table: TripletTable, reader: RowReader, splits: Mapping[str, np.ndarray], how: How
) -> dict[str, Measured]:
    """The distances of every triplet of each split. splits: (k,) int64 rows of the table, by name.

    Images that are the same file, or copies of it, are encoded once; in the reader's order, whatever that of the
    triplets. Raises InputError after the last image where any is missing or damaged: all are counted, the first few
    named. From the first one on images are only decoded, since no figure will come of it.
    """
    rows = np.unique(np.concatenate([table.images[kept] for kept in splits.values()]))
    pool = _Pool(model, reader, rows, how)
    pool.fill(table.where)
    found = {}
    for name, kept in splits.items():
        places = pool.place[np.searchsorted(rows, table.images[kept])]
        left, right = pool.distances(places)
        votes = (table.right_vote[kept], table.votes[kept])
        group = np.full(len(kept), -1, np.int8) if table.group is None else table.group[kept]
        found[name] = Measured(Choices(left, right, *votes, places[:, 0], group), pool.digest(places))
    return found


class _Pool:
    """The distinct images of some rows, and their features."""

    def __init__(self, model: PerceptualModel, reader: RowReader, rows: np.ndarray, how: How) -> None:
        self._model, self._reader, self._rows, self._how = model, reader, rows, how
        self.place = np.full(len(rows), -1, np.int64)  # of each row among the distinct images
        self.digests = np.zeros((len(rows), _DIGEST), np.uint8)  # of each distinct image
        self._features = allocate((len(rows), model.width), how.memory)
        self._known: dict[bytes, int] = {}
        self._read, self._decoded, self._problems = 0, DecodeCounts(), Problems()

    def fill(self, where: str) -> None:
        done, total, size = 0, len(self._rows), self._how.batch_size
        pixels = ahead(self._decode, self._new(), self._how.threads, 2 * size)
        while batch := list(islice(pixels, size)):
            for one in batch:
                if isinstance(one, BadSampleError):
                    self._problems.add(one)
            if not self._problems:
                images = torch.stack([one for one in batch if isinstance(one, Tensor)])
                self._features[done : done + len(batch)] = self._model.encode(images)
            done += len(batch)
            self._how.progress("images", min(self._read, total - 1), total)  # what was read ahead is not yet encoded
        self._problems.check(f"images of {where}", total)
        self._how.progress("images", total, total)

    def distances(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """((n,), (n,)) float32 of the left and the right to the reference. places: (n, 3) of distinct images."""
        found = torch.empty(2, len(places))
        for start in range(0, len(places), _COMPARED):
            part = torch.from_numpy(places[start : start + _COMPARED])
            reference, *sides = (self._features[column] for column in part.unbind(1))
            for row, side in zip(found, sides, strict=True):
                row[start : start + len(part)] = cosine_distance(reference, side)
        if broken := int((~found.isfinite()).any(0).sum()):
            raise InputError(f"--model {self._model.name}: {broken} of {len(places)} distances are no numbers")
        left, right = found.numpy()
        return left, right

    def digest(self, places: np.ndarray) -> str:
        """Of the (n, 3) distinct images."""
        digest = hashlib.sha256()
        for start in range(0, len(places), _COMPARED):
            digest.update(self.digests[places[start : start + _COMPARED]].tobytes())
        return f"sha256:{digest.hexdigest()}"

    def _new(self) -> Iterator[tuple[int, Members]]:
        """(row, its bytes) of each image that is no copy of an earlier one."""
        chunks = np.array_split(self._rows, max(1, math.ceil(len(self._rows) / _READ)))
        for chunk in ahead(self._fetch, chunks, 2, 4):
            for row, members, digest in chunk:
                self._read += 1
                if isinstance(members, SampleError):
                    self._problems.add(self._bad(row, members))
                    continue
                new = digest not in self._known
                place = self._known.setdefault(digest, len(self._known))
                self.place[self._read - 1] = place
                self.digests[place] = np.frombuffer(digest, np.uint8)
                if new:
                    yield row, members

    def _fetch(self, rows: np.ndarray) -> list[tuple[int, Members | SampleError, bytes]]:
        found = self._reader.read(rows)
        return [(row, owned(found[row]), _digest(found[row])) for row in rows.tolist()]

    def _decode(self, numbered: tuple[int, Members]) -> Tensor | BadSampleError:
        row, members = numbered
        try:
            return self._model.preprocess(read_image(members, self._decoded).permute(1, 2, 0).numpy())
        except SampleError as error:
            return self._bad(row, error)

    def _bad(self, row: int, error: SampleError) -> BadSampleError:
        origin = self._reader.origin(row)
        return BadSampleError(f"{origin.shard}, {origin.key}", str(error))


def _digest(members: Members | SampleError) -> bytes:
    if isinstance(members, SampleError):
        return b""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for _, data in sorted(members.items()):
        digest.update(data)
    return digest.digest()
