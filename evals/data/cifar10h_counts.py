"""How many people said what of each image of CIFAR-10 (CIFAR-10H, arXiv 1908.07086): three places it may lie in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.shard_stream import stream_samples
from pineco.evals.data.datasets import Folder

IN_SHARDS = "shards"  # instead of a file: counts are in the samples' own .json
INDEX_FILE = "cifar10h-index.tsv"
_COUNTS, _INDEX = "cifar10h_counts", "cifar10_test_index"  # keys of a sample's .json
_LEAST_AGREEMENT = 0.8  # of labels with what most people say; CIFAR-10H has 99 %, counts of other images 10 %


@dataclass(frozen=True)
class People:
    """What people said of N images."""

    counts: np.ndarray  # (N, C) int64, at least one vote an image
    labels: np.ndarray  # (N,) int64 in [0, C), from the data set

    @property
    def shares(self) -> np.ndarray:
        """(N, C) float64, rows sum to 1."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)


def read_counts(source: str, folder: Folder) -> People:
    """People's counts of the images of a classification set, in its order.

    source: one of
    - `shards`: each sample has a .json with {"cifar10h_counts": [C whole numbers]};
    - FILE.tsv: a row a sample, its key and C whole numbers, in any order; a first row that starts with `key` is a head;
    - FILE.npy: the published cifar10h-counts.npy, (W, C) in the order of CIFAR-10's test set. Whose a row is stands in
      cifar10h-index.tsv beside the .npy (a line a sample: key, tab, row from 0), or in each sample's .json as
      {"cifar10_test_index": row}; without both the set must have W images, in that order. Nothing pickled is read.
    Columns are in the order of classnames.txt. Raises InputError for what is missing or damaged, for images without
    counts, and where most people disagree with the label so often that the counts must be of other images.
    """
    classes = len(folder.classnames)
    if folder.kind != "classification":
        raise InputError(f"{folder.root}: a {folder.kind} set has no classes that people could have named")
    samples = list(_samples(folder))
    keys = [sample.key for sample in samples]
    if source == IN_SHARDS:
        rows = [_vector(sample.about.get(_COUNTS), classes, f"{sample.where}.json, {_COUNTS}") for sample in samples]
        counts = np.array(rows)
    elif Path(source).suffix == ".tsv":
        counts = _of_tsv(Path(source), keys, classes)
    elif Path(source).suffix == ".npy":
        table = _array(Path(source), classes)
        counts = table[_places(Path(source), samples, len(table))]
    else:
        raise InputError(f"--cifar10h {source}: must be a .tsv, the published .npy, or the word {IN_SHARDS}")
    return _checked(People(counts, np.array([sample.label for sample in samples])), source)


@dataclass(frozen=True)
class _Sample:
    where: str  # shard and key
    key: str
    label: int
    about: Mapping[str, object]  # of its .json, empty where it has none


def _samples(folder: Folder) -> Iterator[_Sample]:
    with closing(stream_samples(folder.test, folder.shards)) as samples:
        for shard, key, members in samples:
            where = f"{folder.test.where(shard)}, {key}"
            text = members.get("cls", b"").decode("ascii", errors="replace").strip()
            if not text.isdecimal() or int(text) >= len(folder.classnames):
                raise InputError(f"{where}.cls: {text[:20]!r} is no class from 0 to {len(folder.classnames) - 1}")
            yield _Sample(where, key, int(text), _json(members.get("json", b"{}"), where))


def _json(data: bytes, where: str) -> Mapping[str, object]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{where}.json: no JSON object; mend or drop this sample")
    return found


def _vector(value: object, classes: int, where: str) -> list[int]:
    if isinstance(value, list) and len(value) == classes and all(_is_natural(v) for v in value):
        return [int(v) for v in value]
    raise InputError(f"{where}: {str(value)[:60]} is no list of {classes} whole numbers, one a class")


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _of_tsv(path: Path, keys: Sequence[str], classes: int) -> np.ndarray:
    rows = _rows(path, 1 + classes)
    if missing := [key for key in keys if key not in rows]:
        raise InputError(f"{path}: lacks {len(missing)} of {len(keys)} samples, the first is {missing[0]}")
    return np.array([rows[key] for key in keys])


def _rows(path: Path, columns: int) -> dict[str, list[int]]:
    """Whole numbers by key, the first column."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        key, *cells = line.split("\t")
        if number == 1 and key == "key":
            continue
        if len(cells) != columns - 1 or not all(cell.isdecimal() and len(cell) < 10 for cell in cells):
            raise InputError(f"{path}, line {number}: must be a key and {columns - 1} whole numbers, with tabs between")
        if key in found:
            raise InputError(f"{path}, line {number}: {key} stands twice")
        found[key] = [int(cell) for cell in cells]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _array(path: Path, classes: int) -> np.ndarray:
    """(W, C) int64; numbers of any type that are whole, and no pickled objects."""
    try:
        found = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: no array, damaged or pickled ({error})") from None
    if (
        not isinstance(found, np.ndarray)
        or found.ndim != 2
        or found.shape[1] != classes
        or found.dtype.kind not in "iuf"
    ):
        shown = f"shape {found.shape}, type {found.dtype}" if isinstance(found, np.ndarray) else "an archive"
        raise InputError(f"{path}: {shown}; must be counts of {classes} classes, a row an image")
    if not np.isfinite(found).all() or (found < 0).any() or (found != np.floor(found)).any():
        raise InputError(f"{path}: holds other than whole numbers; take counts, not shares (cifar10h-counts.npy)")
    return found.astype(np.int64)


def _places(path: Path, samples: Sequence[_Sample], rows: int) -> list[int]:
    """The row of each sample."""
    index = path.with_name(INDEX_FILE)
    if index.is_file():
        known = _rows(index, 2)
        if missing := [sample.key for sample in samples if sample.key not in known]:
            raise InputError(f"{index}: lacks {len(missing)} of {len(samples)} samples, the first is {missing[0]}")
        places: list[Any] = [known[sample.key][0] for sample in samples]
    elif any(_INDEX in sample.about for sample in samples):
        places = [sample.about.get(_INDEX) for sample in samples]
    elif len(samples) == rows:
        return list(range(rows))
    else:
        how = f"say whose each is in {index} (key, tab, row from 0)"
        raise InputError(f"{path}: {rows} rows for {len(samples)} images; {how}")
    for sample, place in zip(samples, places, strict=True):
        if not _is_natural(place) or place >= rows:
            raise InputError(f"{sample.where}: its row in {path.name} is {place!r:.40}, not from 0 to {rows - 1}")
    return places


def _checked(people: People, source: str) -> People:
    if silent := int((people.counts.sum(axis=1) == 0).sum()):
        raise InputError(f"--cifar10h {source}: {silent} of {len(people.counts)} images have no votes")
    agrees = float((people.counts.argmax(axis=1) == people.labels).mean())
    if agrees < _LEAST_AGREEMENT:
        raise InputError(
            f"--cifar10h {source}: most people name the label of {100 * agrees:.0f} % of the images only, so the "
            "counts are of other images, or their columns of other classes"
        )
    return people
