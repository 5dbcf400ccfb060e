"""THINGS' odd-one-out triplets: text files of three image numbers a line, the odd one last (Hebart et al. 2020).

The most similar pair gives the reference and one side, the odd one the other side. Which of the pair is the reference,
and which side the odd one takes, is drawn by the number of the row, so that left and right are balanced.

Numbers are taken for places in the order of paths. Nothing in the files says so: a published analysis sorts the
numbers of trainset.txt and validationset.txt anew (sortind.mat) before it compares them with the concepts. Where the
order is another one, --image-list names it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import image_files, resolve_below
from pineco.data_pipeline.prepare.job import Fingerprint
from pineco.data_pipeline.prepare.outcome import Rejected, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.sources.judgements import Judgements
from pineco.data_pipeline.prepare.sources.triplet_shards import TripletShards, triplet_shards
from pineco.data_pipeline.randomness import Stream, bits

PUBLISHED = {"train": "trainset.txt", "val": "validationset.txt"}  # as in the archive on osf.io/z2784
_FOLDERS = ("", "triplet_dataset/")  # where they lie in it


@dataclass(frozen=True, kw_only=True)
class ThingsFiles:
    """Which files of SRC are read; all of it decides bytes."""

    triplets: Mapping[str, str]  # split -> path below SRC; empty: the published names
    images: str = "images"  # folder below SRC; image i is file i in the order of paths
    image_list: str | None = None  # file below SRC: image i is named in line i, instead


def open_things(root: Path, files: ThingsFiles, rules: ImageRules, shard_size: int, threads: int) -> TripletShards:
    """Reads every triplet; raises InputError where a line has no three different numbers of images. root: resolved."""
    paths = _listed(root, files.image_list) if files.image_list else _sorted(root, files.images)
    digest = hashlib.sha256("\n".join(paths).encode(errors="surrogateescape"))
    splits, tables = files.triplets or _published(root), []
    for path in splits.values():
        tables.append(read_triplets(_file(root, path)))
        with _file(root, path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    triplets = np.concatenate(tables)
    _check_images(root, int(triplets.max()) + 1, len(paths), listed=files.image_list is not None)
    split = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    rows, source = deal_sides(triplets, tuple(splits), split), Fingerprint(len(triplets), digest.hexdigest())
    options = {"triplets": dict(splits), "images": files.images, "image_list": files.image_list}
    return triplet_shards(
        "things", root, paths, rows, rules, shard_size, source=source, options=options, threads=threads
    )


def read_triplets(path: Path) -> np.ndarray:
    """(N, 3) int32, the odd one last; raises InputError naming a row that has no three different numbers.

    Numbers may be written as floats, as numpy's savetxt does, and with commas between them.
    """
    expected = "expected three different image numbers from 0 a line, the odd one last"
    with path.open(encoding="utf-8") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file, which is refused below
        try:
            delimiter = "," if "," in file.readline(1000) else None
            file.seek(0)
            rows = np.loadtxt(file, np.float64, comments=None, delimiter=delimiter, ndmin=2)
        except ValueError as error:
            raise InputError(f"{path}: {error}; {expected}") from None
    if not rows.size or rows.shape[1] != 3:
        raise InputError(f"{path}: {rows.size} numbers in {len(rows)} rows; {expected}")
    good = ((rows >= 0) & (rows < 2**31) & (rows == np.floor(rows))).all(axis=1)
    good &= (rows != np.roll(rows, 1, axis=1)).all(axis=1)
    if not good.all():
        bad = int(np.argmin(good))
        raise InputError(f"{path}: row {bad + 1} is {rows[bad].tolist()}; {expected}")
    return rows.astype(np.int32)


def deal_sides(triplets: np.ndarray, split_names: tuple[str, ...], split: np.ndarray) -> Judgements:
    """triplets: (N, 3) int, the odd one last; split: (N,) int. Every triplet was judged by one person."""
    coins = bits(0, Stream.SIDES).random_raw(len(triplets))
    exchanged, odd_left = (coins & np.uint64(1)).astype(bool), (coins & np.uint64(2)).astype(bool)
    first, second, odd = triplets.T
    reference, similar = np.where(exchanged, second, first), np.where(exchanged, first, second)
    left, right = np.where(odd_left, odd, similar), np.where(odd_left, similar, odd)
    votes = np.ones(len(triplets), np.int64)
    images = np.stack([reference, left, right], axis=1)
    return Judgements(range(len(triplets)), split_names, split, odd_left.astype(np.float64), votes, images)


def _published(root: Path) -> dict[str, str]:
    """The files of the published archive, where they are."""
    every = [(split, folder + name) for folder in _FOLDERS for split, name in PUBLISHED.items()]
    found = {split: path for split, path in every if (root / path).is_file()}
    if not found:
        raise InputError(f"{root}: no {' or '.join(PUBLISHED.values())}; name files with --triplets SPLIT=FILE")
    return found


def _file(root: Path, path: str) -> Path:
    try:
        return resolve_below(root, path)[0]
    except RejectError as error:
        raise InputError(f"{root / path}: {error.reason}; name a file below {root}") from None


def _sorted(root: Path, folder: str) -> list[str]:
    if not (root / folder).resolve().is_relative_to(root) or not (root / folder).is_dir():
        raise InputError(f"{root / folder}: no such folder of images; name one below {root} with --images")
    paths = []
    for found in image_files(root, folder.strip("/")):
        if isinstance(found, Rejected):  # leaving it out would number all that follow otherwise
            raise InputError(f"{root / found.path}: {found.reason}; name the images with --image-list")
        paths.append(found)
    return paths


def _listed(root: Path, path: str) -> list[str]:
    text = _file(root, path).read_bytes().decode(errors="surrogateescape")
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def _check_images(root: Path, named: int, there: int, *, listed: bool) -> None:
    """A folder with more images than triplets name is numbered otherwise than they are: THINGS has 26,107 images."""
    if there < named or (there > named and not listed):
        what = f"triplets name images 0 to {named - 1}, but there are {there}"
        raise InputError(f"{root}: {what}; name those of the experiment, in its order, with --image-list")
