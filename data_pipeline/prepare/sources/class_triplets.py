"""Triplets of classes: the reference and one side are of the same class, the other side is of another one.

A control without human judgements. From arXiv 2410.10817 (the ImageNet triplets of its ablation, figure 15): two images
of one category and one of a different one. Ours is how they are drawn: the reference at random among the images of
classes that have two, then another one of its class, then one of all other classes; which side is which; the splits.
A model that was trained on triplets of an evaluation set has seen that set's labels: do not measure it there.

Eight of ten images of every class are for train, one each for val and test, so that no image is in two splits. Every
number is a function of the seed, the split and the row: with more triplets, the first ones of a split stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.outcome import Rejected
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.samples.twins import first_twins
from pineco.data_pipeline.prepare.sources.image_source import ImageSource, TarMembers
from pineco.data_pipeline.prepare.sources.judgements import Judgements
from pineco.data_pipeline.prepare.sources.labelled import open_labelled
from pineco.data_pipeline.prepare.sources.triplet_shards import TripletShards, triplet_shards
from pineco.data_pipeline.randomness import Stream, bits

SPLITS = ("train", "val", "test")
TENTHS = (8, 1, 1)  # of the images of a class, and of the triplets
ELSEWHERE, SAME = "the same image is in another class or split", "reference and side are the same image"
_DRAWS = 4  # 64-bit numbers a triplet


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Which triplets; all of it decides bytes."""

    triplets: int  # at least 10, so that every split has one
    seed: int = 0
    split: str | None = None  # the folder of SRC with the images


def open_class_triplets(root: Path, draw: Draw, rules: ImageRules, shard_size: int, threads: int) -> TripletShards:
    """Lists SRC and draws; raises InputError where a split would lack two images of one class. root: resolved."""
    found = open_labelled(root, draw.split)
    homes = deal_images(found.classes, draw.seed)
    rows = draw_triplets(found.classes, homes, draw, str(root))
    used, numbers = np.unique(rows.images, return_inverse=True)
    rows = replace(rows, images=numbers.reshape(rows.images.shape))
    paths = [found.paths[number] for number in used.tolist()]
    twins = first_twins(found.images, paths, threads)
    reasons = twin_reasons(rows, found.classes[used] * len(SPLITS) + homes[used], twins)
    return triplet_shards(
        "class-triplets",
        root,
        paths,
        _rows(rows, reasons == ""),
        rules,
        shard_size,
        source=found.source,
        rejected=(*found.rejected, *_rejected(rows, reasons)),
        options=asdict(draw),
        images=_only(found.images, paths),
        twins=twins,
    )


def deal_images(classes: np.ndarray, seed: int) -> np.ndarray:
    """classes: (I,) int64. (I,) int64: the split of every image, as a number of SPLITS."""
    order = np.lexsort((bits(seed, Stream.CLASS_TRIPLETS, 0).random_raw(len(classes)), classes))
    homes = np.empty(len(classes), np.int64)
    homes[order] = np.repeat(np.arange(len(SPLITS)), TENTHS)[np.arange(len(classes)) % sum(TENTHS)]
    return homes


def draw_triplets(classes: np.ndarray, homes: np.ndarray, draw: Draw, where: str) -> Judgements:
    """Rows over images 0 to I - 1, by split. classes, homes: (I,) int64. where: for messages."""
    counts = [draw.triplets * tenths // sum(TENTHS) for tenths in TENTHS]
    counts[0] = draw.triplets - sum(counts[1:])
    images, right = [], []
    for split, count in enumerate(counts):
        mine = np.flatnonzero(homes == split)
        mine = mine[np.argsort(classes[mine], kind="stable")]
        raw = bits(draw.seed, Stream.CLASS_TRIPLETS, 1 + split).random_raw(_DRAWS * count).reshape(count, _DRAWS)
        drawn = _draw(classes[mine], raw)
        if drawn is None:
            need = "which needs two of one class and one of another; some 20 images a class are enough for every split"
            raise InputError(f"{where}: {len(mine)} of {len(classes)} images fall to split {SPLITS[split]}, {need}")
        images.append(mine[drawn])
        right.append(_sides(raw[:, 3]))
    odd_left = np.concatenate(right)
    reference, same, other = np.concatenate(images).T
    sides = np.stack([reference, np.where(odd_left, other, same), np.where(odd_left, same, other)], axis=1)
    split_of = np.repeat(np.arange(len(SPLITS), dtype=np.int32), counts)
    votes = np.ones(draw.triplets, np.int64)
    return Judgements(range(draw.triplets), SPLITS, split_of, odd_left.astype(np.float64), votes, sides)


def _draw(classes: np.ndarray, raw: np.ndarray) -> np.ndarray | None:
    """(N, 3) places: reference, one of its class, one of another; None where there are no such three.

    classes: (M,) int64, sorted. raw: (N, 4) uint64.
    """
    begin, end = (np.searchsorted(classes, classes, side) for side in ("left", "right"))
    paired = np.flatnonzero(end - begin > 1)
    if not len(paired) or classes[0] == classes[-1]:
        return None
    reference = paired[_below(raw[:, 0], len(paired))]
    first, size = begin[reference], (end - begin)[reference]
    same = first + (reference - first + 1 + _below(raw[:, 1], size - 1)) % size
    other = _below(raw[:, 2], len(classes) - size)
    return np.stack([reference, same, other + size * (other >= first)], axis=1)


def _below(raw: np.ndarray, ends: np.ndarray | int) -> np.ndarray:
    """Numbers from 0 to end - 1 of raw 64-bit ones; their bias is below end / 2**64."""
    return (raw % np.asarray(ends).astype(np.uint64)).astype(np.int64)


def _sides(raw: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the other class is left. A coin for every two rows, which differ: half are left exactly."""
    left = (raw & np.uint64(1)).astype(bool)
    left[1::2] = ~left[: len(left) // 2 * 2 : 2]
    return left


def twin_reasons(rows: Judgements, homes: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """(N,) str: why a row is left out because files hold the same image, or nothing.

    homes: (U,) int, class and split of every image in one number. twins: (U,) of `first_twins`.
    """
    elsewhere = (homes[twins] != homes)[rows.images].any(axis=1)
    first = twins[rows.images]
    same = (first[:, :1] == first[:, 1:]).any(axis=1)
    return np.where(elsewhere, ELSEWHERE, np.where(same, SAME, ""))


def _rejected(rows: Judgements, reasons: np.ndarray) -> Iterator[Rejected]:
    for number in np.flatnonzero(reasons != "").tolist():
        yield Rejected(f"triplet {rows.ids[number]}", str(reasons[number]))


def _rows(rows: Judgements, kept: np.ndarray) -> Judgements:
    return replace(
        rows,
        ids=np.flatnonzero(kept).tolist(),
        split=rows.split[kept],
        right_vote=rows.right_vote[kept],
        votes=rows.votes[kept],
        images=rows.images[kept],
    )


def _only(images: ImageSource, paths: list[str]) -> ImageSource:
    """Of these images, so that other processes are not sent the places of all of ImageNet."""
    if not isinstance(images, TarMembers):
        return images
    return TarMembers(images.root, {path: images.places[path] for path in paths})
