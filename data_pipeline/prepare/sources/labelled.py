"""Images and the numbers of their classes: of class folders, or of webdataset shards with KEY.cls beside KEY.jpg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import index_shard
from pineco.data_pipeline.index.samples import Sample
from pineco.data_pipeline.prepare.confine import resolve_below
from pineco.data_pipeline.prepare.job import Fingerprint, fingerprint
from pineco.data_pipeline.prepare.outcome import Rejected, RejectError
from pineco.data_pipeline.prepare.sources.image_folder import find_classes
from pineco.data_pipeline.prepare.sources.image_source import Files, ImageSource, Place, TarMembers
from pineco.data_pipeline.prepare.sources.raw_samples import DUPLICATE, IMAGE_EXTENSIONS
from pineco.data_pipeline.prepare.sources.wds import LAYOUT, split_folder
from pineco.data_pipeline.prepare.sources.yfcc15m import NO_IMAGE
from pineco.data_pipeline.stores.store import LocalStore

NO_CLASS = "no .cls with the number of a class"
_DIGITS = 9  # of a class number at most


@dataclass(frozen=True)
class Labelled:
    """I images."""

    images: ImageSource
    paths: Sequence[str]  # (I,)
    classes: np.ndarray  # (I,) int64
    source: Fingerprint
    rejected: tuple[Rejected, ...]


def open_labelled(root: Path, split: str | None) -> Labelled:
    """Lists the images of SRC, or of its folder `split`; raises InputError where it has another layout. root: resolved.

    Shards lie in that folder itself, or where an evaluation set has them, in test/.
    """
    folders = [split] if split else ["", LAYOUT.folder]
    shards = next((folder for folder in folders if any((root / folder).glob("*.tar"))), None)
    return _of_folders(split_folder(root, split)) if shards is None else _of_shards(root, shards)


def _of_folders(root: Path) -> Labelled:
    found = find_classes(root)
    paths = [path for _, path in found.images]
    classes = np.array([number for number, _ in found.images], np.int64)
    return Labelled(Files(root), paths, classes, fingerprint([*found.names, *paths]), found.rejected)


def _of_shards(root: Path, folder: str) -> Labelled:
    """A damaged shard is refused: with the rest of its samples gone, other triplets would be drawn."""
    store, rejected = LocalStore(root / folder), []
    places: dict[str, Place] = {}
    classes: list[int] = []
    for name in store.list_shards():
        tar = f"{folder}/{name}" if folder else name
        _check_inside(root, tar)
        for sample in index_shard(store, name):
            path = f"{tar}/{sample.key}"
            try:
                number, place = _class(store, name, sample), _image(tar, sample)
                if path in places:
                    raise RejectError(DUPLICATE)
            except RejectError as error:
                rejected.append(error.at(path))
            else:
                places[path] = place
                classes.append(number)
    if not places:
        raise InputError(f"{root / folder}: no sample has an image and a .cls; expected KEY.jpg with KEY.cls")
    rows = zip(places.items(), classes, strict=True)
    source = fingerprint(f"{path}\0{number}\0{place.offset}\0{place.size}" for (path, place), number in rows)
    return Labelled(TarMembers(root, places), list(places), np.array(classes, np.int64), source, tuple(rejected))


def _check_inside(root: Path, tar: str) -> None:
    try:
        resolve_below(root, tar)
    except RejectError as error:
        raise InputError(f"{root / tar}: {error.reason}; take it out of SRC, or copy the file there") from None


def _class(store: LocalStore, shard: str, sample: Sample) -> int:
    member = sample.members.get("cls")
    if member is None or member.size > _DIGITS + 1:
        raise RejectError(NO_CLASS)
    text = store.read(shard, member.offset, member.size).strip()
    if not (text.isdigit() and len(text) <= _DIGITS):
        raise RejectError(NO_CLASS, repr(text))
    return int(text)


def _image(tar: str, sample: Sample) -> Place:
    member = next((sample.members[e] for e in IMAGE_EXTENSIONS if e in sample.members), None)
    if member is None:
        raise RejectError(NO_IMAGE)
    return Place(tar, member.offset, member.size)
