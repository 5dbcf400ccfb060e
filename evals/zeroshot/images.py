"""Images as features: read ahead, decoded by threads, a batch at a time through the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from pineco.evals.batching import Rows, ahead
from pineco.evals.data.datasets import BadSampleError, Example, Folder, Problems, decode, read_examples
from pineco.evals.data.samples import digest
from pineco.evals.models.model import Model
from pineco.evals.ranks import Ranks, agree

_DIGESTS = 2**256

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Images:
    """A data set that went through the model, in file order."""

    features: Tensor  # (N, D) float32, L2-normalised
    examples: tuple[Example, ...]  # N, without their bytes
    data: str  # 64 hex digits: equal only where samples, labels and their order are


def encode_images(
    model: Model,
    folder: Folder,
    key: str,
    *,
    batch_size: int,
    threads: int,
    ranks: Ranks,
    progress: Callable[[int], None],
) -> Images:
    """Every image of a folder; all processes read it, each decodes and encodes its own batches, and all get all rows.

    Batches are the same whatever the number of processes, so features are too. Raises InputError, in every process,
    where samples cannot be used (all are counted, the first few named), a shard is damaged, or a store is silent.
    """
    share = _Share(model, folder, batch_size, threads, ranks, progress)
    agree(ranks, share.run)
    for where, why in _flat(ranks.gather_json(share.undecodable)):
        share.problems.add(BadSampleError(where, why))
    share.problems.check(key, len(share.examples) + share.unparsed)
    features = ranks.gather(share.rows.tensor())
    numbers = ranks.gather(torch.tensor(share.numbers, dtype=torch.int64))
    data = sum(int(part, 16) for part in ranks.gather_json(f"{share.digest:x}")) % _DIGESTS
    return Images(features[torch.argsort(numbers)], tuple(share.examples), f"{data:064x}")


class _Share:
    """One process's part of a folder."""

    def __init__(
        self,
        model: Model,
        folder: Folder,
        batch_size: int,
        threads: int,
        ranks: Ranks,
        progress: Callable[[int], None],
    ) -> None:
        self.model, self.folder, self.batch_size, self.threads = model, folder, batch_size, threads
        self.ranks, self.progress = ranks, progress
        self.rows, self.numbers, self.examples = Rows(), list[int](), list[Example]()
        self.problems = Problems()
        self.undecodable: list[tuple[str, str]] = []
        self.unparsed = 0
        self.digest = 0  # of this process's samples, modulo 2**256

    def run(self) -> None:
        loaded = ahead(self._load, self._own(), self.threads, 2 * self.batch_size)
        while batch := list(islice(loaded, self.batch_size)):
            good = [(number, item) for number, item, _ in batch if isinstance(item, Tensor)]
            self.undecodable += [(item.where, item.why) for _, item, _ in batch if isinstance(item, BadSampleError)]
            self.digest = (self.digest + sum(found for *_, found in batch)) % _DIGESTS
            if good:
                self.rows.append(self.model.embed(torch.stack([pixels for _, pixels in good])))
                self.numbers += [number for number, _ in good]
            self.progress(min(len(self.numbers) * self.ranks.world, len(self.examples)))
        self.unparsed = len(self.problems)

    def _own(self) -> Iterator[tuple[int, Example]]:
        """Notes every example, yields those of this process's batches with their numbers."""
        for number, example in enumerate(read_examples(self.folder, self.problems)):
            self.examples.append(replace(example, image=b""))
            if self.ranks.owns(number // self.batch_size):
                yield number, example

    def _load(self, numbered: tuple[int, Example]) -> tuple[int, Tensor | BadSampleError, int]:
        """(number, pixels or why there are none, digest of the sample)."""
        number, example = numbered
        try:
            return number, self.model.preprocess(decode(example)), digest(example)
        except BadSampleError as error:
            return number, error, 0


def _flat(lists: Iterable[list[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    return (pair for pairs in lists for pair in pairs)
