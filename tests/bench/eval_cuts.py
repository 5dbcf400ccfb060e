"""Smaller copies of evaluation sets in the CLIP_benchmark layout, so that a measurement takes minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import read_samples
from pineco.data_pipeline.stores.tar_writer import TarWriter
from pineco.evals.data.datasets import Folder, open_folder

SETS = ("cifar10", "mnist", "dtd10", "imagenet1k_sample", "flickr8k")
_CLASSES, _TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"

Sample = tuple[str, dict[str, bytes]]  # key and members by extension


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is kept of each set, the first of everything; None keeps all."""

    images: int | None = None
    templates: int | None = None
    classes: int | None = None
    shards: int = 2  # as many as readers with one worker a shard want


def cut_sets(root: Path, target: Path, cut: Cut, names: tuple[str, ...] = SETS) -> tuple[str, ...]:
    """Copies sets of `root` to `target`; returns their new names, which say how many classes are left.

    A set with fewer classes is another task than its row in tasks.yaml, so it must not bear that name.
    """
    return tuple(_cut_set(open_folder(root / name, name), name, target, cut) for name in names)


def _cut_set(folder: Folder, name: str, target: Path, cut: Cut) -> str:
    classes = folder.classnames[: cut.classes]
    if len(classes) < len(folder.classnames):
        name = f"{name}_{len(classes)}"
    place = target / name
    (place / "test").mkdir(parents=True)
    samples = list(islice(_samples(folder, len(classes)), cut.images))
    if len(samples) < cut.shards:
        raise InputError(f"{folder.root}: {len(samples)} images are left, fewer than {cut.shards} shards")
    _write_shards(place / "test", samples, cut.shards)
    if folder.kind == "retrieval":
        (place / "dataset_type.txt").write_text("retrieval")
    else:
        (place / _CLASSES).write_text("\n".join(classes), encoding="utf-8")
        (place / _TEMPLATES).write_text("\n".join(folder.templates[: cut.templates]), encoding="utf-8")
    return name


def _samples(folder: Folder, classes: int) -> Iterator[Sample]:
    """Those of the first classes; all of a retrieval set."""
    for shard in folder.shards:
        for key, members in read_samples(folder.test.where(shard)):
            if folder.kind == "retrieval" or int(members["cls"]) < classes:
                yield key, members


def _write_shards(place: Path, samples: list[Sample], shards: int) -> None:
    """Shards of nearly the same size, in order."""
    borders = [number * len(samples) // shards for number in range(shards + 1)]
    for number, (first, last) in enumerate(pairwise(borders)):
        with (place / f"{number}.tar").open("wb") as file:
            writer = TarWriter(file)
            for key, members in samples[first:last]:
                for extension, data in members.items():
                    writer.add(f"{key}.{extension}", data)
            writer.close()
    (place / "nshards.txt").write_text(str(shards))
