"""What a model did with every single image: all figures follow from it, and two models can be compared in pairs."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import replacing
from pineco.evals.zeroshot.classification import (
    ClassificationOutcomes,
    Statistic,
    classification_chance,
    classification_statistic,
)
from pineco.evals.zeroshot.multilabel import MultilabelOutcomes, multilabel_chance, multilabel_statistic
from pineco.evals.zeroshot.retrieval import RetrievalOutcomes, captions_of_image, retrieval_chance, retrieval_statistic

Outcomes: TypeAlias = ClassificationOutcomes | RetrievalOutcomes | MultilabelOutcomes

_HEADER = "pineco.outcomes"  # one entry, because safetensors writes several in random order
_SMALL = (torch.uint8, torch.int16, torch.int32, torch.int64)
_FIELDS: dict[str, tuple[str, ...]] = {  # by kind: first the truth, then what the model made of it
    "classification": ("labels", "ranks"),
    "retrieval": ("image_of_text", "image_ranks", "text_ranks"),
    "multilabel": ("labels", "scores"),
}


def image_count(outcomes: Outcomes) -> int:
    match outcomes:
        case RetrievalOutcomes():
            return len(outcomes.text_ranks)
        case _:
            return len(outcomes.labels)


def statistic(outcomes: Outcomes) -> Statistic:
    """The figures as a function of how often each image counts; sorts once what all calls share."""
    match outcomes:
        case ClassificationOutcomes():
            return classification_statistic(outcomes)
        case RetrievalOutcomes():
            return retrieval_statistic(outcomes)
        case MultilabelOutcomes():
            return multilabel_statistic(outcomes)


def metrics(outcomes: Outcomes) -> dict[str, float]:
    """Every figure of this kind of task, in [0, 1], each image counted once."""
    return statistic(outcomes)(np.ones(image_count(outcomes), np.int64))


def chance(outcomes: Outcomes) -> dict[str, float]:
    """What guessing scores on this data, in [0, 1], by the names of `metrics`."""
    match outcomes:
        case ClassificationOutcomes():
            return classification_chance(outcomes.classes)
        case RetrievalOutcomes():
            return retrieval_chance(captions_of_image(outcomes))
        case MultilabelOutcomes():
            return multilabel_chance(outcomes.labels)


def classes_without_images(outcomes: Outcomes) -> list[int]:
    """Numbers of the classes that no image has, ascending; empty for retrieval."""
    match outcomes:
        case ClassificationOutcomes():
            seen = torch.bincount(outcomes.labels, minlength=outcomes.classes)
        case MultilabelOutcomes():
            seen = outcomes.labels.sum(dim=0)
        case RetrievalOutcomes():
            return []
    return torch.nonzero(seen == 0).flatten().tolist()


def paired(a: Outcomes, b: Outcomes) -> None:
    """Raises InputError unless image i of `a` is image i of `b`, as far as kind, sizes and labels tell."""
    if _kind(a) != _kind(b):
        raise InputError(f"outcomes of {_kind(a)} and of {_kind(b)} cannot be paired; compare the same task")
    if image_count(a) != image_count(b):
        raise InputError(f"outcomes of {image_count(a)} and of {image_count(b)} images cannot be paired")
    truth = _FIELDS[_kind(a)][0]
    if not torch.equal(getattr(a, truth), getattr(b, truth)) or _classes(a) != _classes(b):
        raise InputError("outcomes of two models cannot be paired: their labels differ; measure both on the same data")


def save_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Replaces `path` in one step. The same outcomes give the same bytes; integers take what the largest needs."""
    kind = _kind(outcomes)
    tensors = {name: _small(getattr(outcomes, name)) for name in _FIELDS[kind]}
    data = save(tensors, {_HEADER: json.dumps(_header(kind, _classes(outcomes), tensors))})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load_outcomes(path: Path) -> Outcomes:
    """The inverse of `save_outcomes`; raises InputError for a file that is missing, damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return _from_parts(metadata, tensors)
    except (OSError, SafetensorError, ValueError) as error:  # a JSON error is a ValueError
        raise InputError(f"{path}: no outcomes of ours, or damaged ({error}); delete it and measure again") from None


def _from_parts(metadata: dict[str, str], tensors: dict[str, Tensor]) -> Outcomes:
    """Raises ValueError for anything that `save_outcomes` does not write."""
    header = json.loads(metadata.get(_HEADER, "null"))
    kind, classes = (str(header.get("kind")), header.get("classes")) if isinstance(header, dict) else ("", None)
    if sorted(tensors) != sorted(_FIELDS.get(kind, ())):
        raise ValueError("holds something else")
    if header != _header(kind, classes, tensors):
        raise ValueError("the checksum differs")
    whole = {name: _whole(tensor) for name, tensor in tensors.items()}
    match kind:
        case "classification":
            return ClassificationOutcomes(**whole, classes=int(classes or 0))
        case "retrieval":
            return RetrievalOutcomes(**whole)
        case _:
            return MultilabelOutcomes(**whole)


def _kind(outcomes: Outcomes) -> str:
    match outcomes:
        case ClassificationOutcomes():
            return "classification"
        case RetrievalOutcomes():
            return "retrieval"
        case MultilabelOutcomes():
            return "multilabel"


def _classes(outcomes: Outcomes) -> int | None:
    """Their number, where no tensor tells it."""
    return outcomes.classes if isinstance(outcomes, ClassificationOutcomes) else None


def _small(values: Tensor) -> Tensor:
    """Integers in the smallest type that holds them; the rest as it is."""
    if values.dtype != torch.int64:
        return values.contiguous()
    largest = int(values.max())
    return values.to(next(kind for kind in _SMALL if largest <= torch.iinfo(kind).max))


def _whole(values: Tensor) -> Tensor:
    """A copy, since the file's own bytes are mapped into memory; integers as int64."""
    return values.to(torch.int64 if values.dtype in _SMALL else values.dtype, copy=True)


def _header(kind: str, classes: int | None, tensors: dict[str, Tensor]) -> dict[str, str | int | None]:
    """With a checksum of all that the file says: a flipped bit would be another rank, and nothing else would tell."""
    crc = zlib.crc32(f"{kind} {classes}".encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.numpy().data, crc)
    return {"kind": kind, "classes": classes, "crc32": crc}
