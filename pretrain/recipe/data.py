"""Settings of the data that an objective reads. The comment beside a field is what `pineco recipes NAME` prints.

Imports no torch, so that a login node can refuse a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pineco.pretrain.recipe.bounds import bounded


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What every data set shares."""

    root: str | None = None  # folder or s3://bucket/prefix of the shards; for triplets also the folder of NIGHTS
    batch_size: int = bounded(128, at_least=1)  # samples per optimizer step, over all ranks and micro-batches
    accumulation: int = bounded(1, at_least=1)  # micro-batches per optimizer step
    # parallel sequences that the samples are dealt into; decides their order on any number of ranks, and must divide
    # batch_size / accumulation
    lanes: int = bounded(64, at_least=1)
    # threads per rank that decode; this setting and those down to bad_per_shard change no result
    workers: int = bounded(2, at_least=1)
    prefetch: int = bounded(4, at_least=0)  # batches that are decoded ahead of the trainer
    # threads per rank that read shards; at 30 ms a GET, 32 deliver a first batch of 256 in half a second
    connections: int = bounded(32, at_least=1)
    # GiB per rank for shards that are read ahead; a data set of at most half of it is kept in memory
    memory_gib: float = bounded(4.0, above=0)
    index: str | None = None  # folder or s3:// address of the index; null: beside the shards
    cache: str | None = None  # folder on a local disk that keeps what was read from s3://; null: no cache
    cache_gib: float = bounded(100.0, above=0)  # GiB that the cache may take
    # share of a rank's samples in an epoch that may be damaged, but always at least one sample; more stop the run
    bad_share: float = bounded(1e-4, at_least=0)
    bad_per_shard: int = bounded(50, at_least=0)  # damaged samples allowed in one shard; more stop the run

    def conflicts(self) -> Iterator[str]:
        """What is wrong with settings that are within their bounds, one line each."""
        unit = self.accumulation * self.lanes
        if self.batch_size % unit:
            told = f"data.batch_size is {self.batch_size}"
            yield f"{told}; it must be a multiple of data.accumulation * data.lanes = {unit}"


@dataclass(frozen=True, kw_only=True)
class ImageTextSettings(DataSettings):
    """Images with captions."""

    captions: Literal["first", "any"] = "first"  # first: the .txt; any: one of the list in .json, drawn in every epoch
    crop_scale: tuple[float, float] = (0.9, 1.0)  # least and largest area of the random crop, as share of the image
    crop_ratio: tuple[float, float] = (0.75, 1.3333)  # least and largest width / height of the random crop
    flip: float = 0.0  # probability of a horizontal flip

    def conflicts(self) -> Iterator[str]:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            yield f"data.crop_scale is [{low}, {high}]; shares of the area, 0 < low <= high <= 1"
        yield from super().conflicts()


@dataclass(frozen=True, kw_only=True)
class TripletSettings(DataSettings):
    """Triplets of images with people's votes on which of two is more like the reference."""

    split: str = "train"  # name of the split that is read
    min_votes: int = bounded(6, at_least=0)  # rows with fewer votes are left out; NIGHTS keeps those with six or more
    ties: Literal["drop", "refuse"] = "drop"  # rows with equal votes; drop: left out and counted, refuse: an error
    # share of the remaining rows that is read, chosen by the seed; a smaller share is part of every larger one
    share: float = bounded(1.0, above=0, at_most=1)
    shuffled: bool = False  # true: votes are permuted among the triplets of the share, as a control
    caption: str = "{}"  # text that a trained text tower reads; {} stands for the triplet's prompt


@dataclass(frozen=True, kw_only=True)
class MultiCropSettings(DataSettings):
    """Views of one image: two global crops and some local ones, which overlap."""

    global_size: int = 224  # side of a global crop, in pixels
    local_size: int = 98  # side of a local crop, in pixels
    local_crops: int = 4  # local crops per image
    global_scale: tuple[float, float] = (0.25, 1.0)  # least and largest area of a global crop, as share of the image
    local_scale: tuple[float, float] = (0.05, 0.25)  # least and largest area of a local crop, as share of the image
    crop_ratio: tuple[float, float] = (0.75, 1.3333)  # least and largest width / height of a crop
    min_overlap: float = 0.01  # least overlap of a global and a local crop, as share of the image's area
    min_overlap_globals: float = 0.02  # least overlap of the two global crops, as share of the image's area
    jitter_p: float = 0.8  # probability that brightness, contrast, saturation and hue are changed
    brightness: float = 0.8  # largest change of brightness, as a factor in 1 ± this
    contrast: float = 0.8  # largest change of contrast, as a factor in 1 ± this
    saturation: float = 0.8  # largest change of saturation, as a factor in 1 ± this
    hue: float = 0.2  # largest rotation of hue in either direction; 0.5 is half of the colour circle
    grey_p: float = 0.2  # probability that all colour is removed
    blur_p: float = 0.5  # probability of a Gaussian blur
