"""Text as classifiers: every prompt of all tasks once through the model, and what came out kept for the next time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pineco.data_pipeline.files import replacing
from pineco.evals.batching import Rows
from pineco.evals.models.model import Model
from pineco.evals.ranks import Ranks
from pineco.evals.zeroshot.classification import class_weights

PromptSet = Sequence[Sequence[str]]  # the prompts of each class
Progress = Callable[[int, int], None]  # prompts done, of how many


CHUNK = 8192  # prompts that are kept at a time: what a kill can cost, and small beside the weights of a large model


class TextCache:
    """Text embeddings in a folder, by the model's identity and the texts they were made of.

    They are the (C, D) class weights of sets of prompts and, until all of those are there, (T, D) features of chunks.
    """

    def __init__(self, folder: Path | None) -> None:
        """folder: made when something is kept; None keeps nothing."""
        self._folder = folder

    def find(self, model: Model, prompts: PromptSet) -> Tensor | None:
        """None where they are not there, or the file is damaged: they are then made anew."""
        return _load(self._path(model, [list(of_class) for of_class in prompts]))

    def keep(self, model: Model, prompts: PromptSet, weights: Tensor) -> None:
        _keep(self._path(model, [list(of_class) for of_class in prompts]), weights)

    def find_chunk(self, model: Model, texts: Sequence[str]) -> Tensor | None:
        """As `find`."""
        return _load(self._path(model, list(texts)))

    def keep_chunk(self, model: Model, texts: Sequence[str], features: Tensor) -> None:
        _keep(self._path(model, list(texts)), features)

    def drop_chunk(self, model: Model, texts: Sequence[str]) -> None:
        if path := self._path(model, list(texts)):
            path.unlink(missing_ok=True)

    def _path(self, model: Model, texts: list[Any]) -> Path | None:
        if self._folder is None:
            return None
        words = json.dumps([model.identity, model.precision, texts])
        return self._folder / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.safetensors"


def _load(path: Path | None) -> Tensor | None:
    if path is None or not path.is_file():
        return None
    try:
        return load_file(path)["weights"]
    except (OSError, SafetensorError, KeyError):
        return None


def _keep(path: Path | None, rows: Tensor) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(save({"weights": rows.contiguous()}))


def encode_classes(
    model: Model,
    sets: Mapping[str, PromptSet],
    *,
    batch_size: int,
    cache: TextCache,
    ranks: Ranks,
    progress: Progress,
) -> dict[str, Tensor]:
    """(C, D) class weights of each set of prompts, by name.

    A prompt that several sets share is encoded once; the ImageNet family asks for 98,400 instead of 306,400. All
    processes share the work, and all get all weights. One decides what is cached, so that none waits for another.
    """
    found = {name: cache.find(model, prompts) for name, prompts in sets.items()}
    cached = ranks.gather_json([weights is not None for weights in found.values()])
    known = {name for number, name in enumerate(sets) if all(row[number] for row in cached)}
    missing = {name: prompts for name, prompts in sets.items() if name not in known}
    unique = dict.fromkeys(text for prompts in missing.values() for of_class in prompts for text in of_class)
    chunks = _chunks(unique, batch_size)
    row_of = {text: row for row, text in enumerate(text for chunk in chunks for text in chunk)}
    features = _encode_chunks(model, chunks, batch_size=batch_size, cache=cache, ranks=ranks, progress=progress)
    weights = {name: tensor for name, tensor in found.items() if tensor is not None and name in known}
    for name, prompts in missing.items():
        rows = torch.tensor([row_of[text] for of_class in prompts for text in of_class])
        weights[name] = class_weights(features[rows], [len(of_class) for of_class in prompts])
        if ranks.leads:
            cache.keep(model, prompts, weights[name])
    if ranks.leads:
        for chunk in chunks:
            cache.drop_chunk(model, chunk)
    return weights


def _chunks(texts: Iterable[str], batch_size: int) -> list[list[str]]:
    """Of whole batches where that is possible, short texts first, so that batches are those of one call for all."""
    ordered, size = sorted(texts, key=len), max(1, CHUNK // batch_size) * batch_size
    return [ordered[first : first + size] for first in range(0, len(ordered), size)]


def _encode_chunks(
    model: Model,
    chunks: Sequence[Sequence[str]],
    *,
    batch_size: int,
    cache: TextCache,
    ranks: Ranks,
    progress: Progress,
) -> Tensor:
    """(T, D) features of all texts, those that an evaluation before had finished from the cache."""
    total, done, parts = sum(map(len, chunks)), 0, []
    for chunk in chunks:
        features = cache.find_chunk(model, chunk)
        if not all(ranks.gather_json(features is not None)):
            features = encode_texts(
                model,
                chunk,
                batch_size=batch_size,
                ranks=ranks,
                progress=lambda now, of, before=done: progress(before + now, total),  # type: ignore[misc]
            )
            if ranks.leads:
                cache.keep_chunk(model, chunk, features)
        assert features is not None
        done += len(chunk)
        parts.append(features)
    return torch.cat(parts) if parts else torch.empty((0, 0))


def encode_texts(model: Model, texts: Sequence[str], *, batch_size: int, ranks: Ranks, progress: Progress) -> Tensor:
    """(T, D) features in the order of `texts`; long ones go together, so that short ones are not padded for them."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    blocks = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    mine = [block for number, block in enumerate(blocks) if ranks.owns(number)]
    rows, done = Rows(), 0
    for block in mine:
        rows.append(model.encode_texts(model.tokenizer([texts[number] for number in block])))
        done += len(block)
        progress(min(done * ranks.world, len(texts)), len(texts))
    features = ranks.gather(rows.tensor())
    numbers = ranks.gather(torch.tensor(_flat(mine), dtype=torch.int64))
    return features[torch.argsort(numbers)]


def _flat(blocks: Iterable[Sequence[int]]) -> list[int]:
    return [number for block in blocks for number in block]
