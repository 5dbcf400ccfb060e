"""From a recipe to what the loop consumes: the data set that is named there, as a loader of typed batches."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.crops import MultiCrop
from pineco.data_pipeline.images.image_text import ImageTextSource
from pineco.data_pipeline.images.multicrop import MultiCropSource
from pineco.data_pipeline.images.transforms import Augmentation
from pineco.data_pipeline.loader import Loader, LoaderSettings, Source
from pineco.data_pipeline.prepare.toy import make_toy_world
from pineco.data_pipeline.reading.shard_set import ShardOptions, open_shards
from pineco.data_pipeline.stores.cache import DiskCache
from pineco.data_pipeline.triplets.source import TripletSource, open_triplets
from pineco.evals.data.datasets import resolve_tasks
from pineco.pretrain.distributed import RankInfo, barrier
from pineco.pretrain.models.clip import image_size, tokenizer
from pineco.pretrain.recipe.data import DataSettings, ImageTextSettings, MultiCropSettings, TripletSettings
from pineco.pretrain.recipe.objectives import AlignSettings, PerceptualInitSettings
from pineco.pretrain.recipe.settings import Recipe


def build_loader(recipe: Recipe, ranks: RankInfo, *, ledger: Path, pin: bool) -> Loader[Any]:
    """Opens the data set of the recipe; raises InputError naming what is missing or damaged there.

    ledger: the file of this rank's bad samples. pin: batches in page-locked memory.
    """
    data = recipe.data
    return Loader(
        _source(recipe),
        batch_size=data.batch_size // data.accumulation,
        lanes=data.lanes,
        seed=recipe.seed,
        rank=ranks.rank,
        world=ranks.world,
        settings=LoaderSettings(
            workers=data.workers,
            prefetch=data.prefetch,
            connections=data.connections,
            memory=_bytes(data.memory_gib),
            pin=pin,
            ledger=ledger,
            bad_share=data.bad_share,
            bad_per_shard=data.bad_per_shard,
        ),
    )


def describe_data(loader: Loader[Any]) -> str | None:
    """One line for the log: which judgements are read, and how many are left out for which reason; None of other data.

    Said by the run, not while the loader is made, because run.log is opened later.
    """
    return loader.source.describe() if isinstance(loader.source, TripletSource) else None


def ensure_toy_world(recipe: Recipe, ranks: RankInfo) -> None:
    """Writes the recipe's toy world where it is not there yet; one rank writes, the others wait."""
    if recipe.toy_world is not None and ranks.leads:
        make_toy_world(Path(recipe.toy_world.root), recipe.toy_world.settings)
    barrier(ranks)


def check_evaluation(recipe: Recipe) -> None:
    """Raises InputError for a task or a data set that does not exist, before any step is taken."""
    settings = recipe.evaluation
    if settings.tasks:
        if settings.data is None:
            raise InputError(f"{recipe.name}: evaluation.tasks is set, so evaluation.data=DIR must name their folder")
        resolve_tasks(settings.data, settings.tasks, allow_missing=settings.allow_missing)


def _source(recipe: Recipe) -> Source[Any]:
    data = recipe.data
    if data.root is None:
        raise InputError(f"{recipe.name}: data.root is not set; pass data.root=DIR")
    options = _shard_options(data)
    if isinstance(data, MultiCropSettings):
        views = MultiCrop(**{field.name: getattr(data, field.name) for field in fields(MultiCrop)})
        return MultiCropSource(open_shards(data.root, options), settings=views, seed=recipe.seed)
    size = _image_size(recipe)
    if isinstance(data, ImageTextSettings):
        return ImageTextSource(
            open_shards(data.root, options),
            image_size=size,
            tokenize=tokenizer(recipe.model),
            seed=recipe.seed,
            augmentation=Augmentation(crop_scale=data.crop_scale, crop_ratio=data.crop_ratio, flip=data.flip),
            captions=data.captions,
        )
    assert isinstance(data, TripletSettings)
    return TripletSource(
        *open_triplets(data.root, options),
        image_size=size,
        split=data.split,
        min_votes=data.min_votes,
        seed=recipe.seed,
        ties=data.ties,
        share=data.share,
        shuffled=data.shuffled,
        tokenize=tokenizer(recipe.model) if _trains_text(recipe) else None,
        caption=data.caption,
    )


def _image_size(recipe: Recipe) -> int:
    """Side in pixels of the images that the model gets."""
    settings = recipe.objective
    return settings.image_size if isinstance(settings, AlignSettings) else image_size(recipe.model)


def _trains_text(recipe: Recipe) -> bool:
    """Whether the prompts of triplets are learnt; else a table need not have any."""
    return isinstance(recipe.objective, PerceptualInitSettings) and recipe.objective.caption_weight > 0


def _shard_options(data: DataSettings) -> ShardOptions:
    cache = None if data.cache is None else DiskCache(data.cache, _bytes(data.cache_gib))
    return ShardOptions(index=data.index, cache=cache, memory=_bytes(data.memory_gib / 2))


def _bytes(gib: float) -> int:
    return int(gib * 2**30)
