"""How many samples a stage reads, and how large they are: given, looked up on this machine, or guessed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pineco.pretrain.recipe.data import DataSettings, ImageTextSettings, MultiCropSettings, TripletSettings
from pineco.pretrain.recipe.settings import Recipe

if TYPE_CHECKING:
    from pineco.data_pipeline.triplets.table import TripletTable

IMAGE_BYTES = 60_000  # of a photo of YFCC15M's size where nothing is known; 30 to 110 KB are usual
# Samples, and bytes of an image, of the data that the published runs read.
USUAL: dict[type[DataSettings], tuple[int, int]] = {
    ImageTextSettings: (15_000_000, IMAGE_BYTES),  # YFCC15M
    TripletSettings: (16_000, IMAGE_BYTES),  # 8 in 10 of NIGHTS' 20,019 (arXiv 2306.09344)
    MultiCropSettings: (118_287, 152_000),  # COCO train2017, some 18 GB
}


@dataclass(frozen=True)
class DataSize:
    """What one stage reads."""

    samples: int
    sample_bytes: float
    source: str  # of the number of samples
    bytes_source: str
    guessed: bool  # the number of samples


def data_size(recipe: Recipe, samples: int | None, sample_bytes: float | None) -> DataSize:
    """As given, else from the index of a folder that is there, else from the toy world's settings, else guessed.

    Nothing is asked of S3. Raises InputError for shards that a run would refuse.
    """
    found = _opened(recipe) if samples is None or sample_bytes is None else None
    found = found or _guessed(recipe)
    if samples is not None:
        found = replace(found, samples=samples, source="as given", guessed=False)
    return found if sample_bytes is None else replace(found, sample_bytes=sample_bytes, bytes_source="as given")


def _guessed(recipe: Recipe) -> DataSize:
    triplets, toy = isinstance(recipe.data, TripletSettings), recipe.toy_world
    usual, image = USUAL[type(recipe.data)] if toy is None else (0, IMAGE_BYTES)
    each = image * (3 if triplets else 1)
    source, size = f"a guess: {recipe.data.root} cannot be read here", f"a guess: {image / 1e3:g} KB an image"
    share = recipe.data.share if isinstance(recipe.data, TripletSettings) else 1.0
    if toy is None:
        return DataSize(int(usual * share), each, source, size, True)
    made = toy.settings.triplets * 4 // 5 if triplets else toy.settings.train_pairs
    return DataSize(int(made * share), each, "toy_world.settings", size, False)


def _opened(recipe: Recipe) -> DataSize | None:
    """Of a local folder; None where there is none."""
    root = recipe.data.root
    if root is None or not Path(root).is_dir():
        return None
    from pineco.data_pipeline.index import open_index  # numpy and more, which a plan without data does not need
    from pineco.data_pipeline.stores.store import open_store
    from pineco.data_pipeline.triplets.table import read_nights, read_table

    triplets = isinstance(recipe.data, TripletSettings)
    if triplets and (Path(root) / "data.csv").is_file():
        rows = _rows(read_nights(Path(root)).table, recipe)
        guess = f"a guess: {IMAGE_BYTES / 1e3:g} KB an image"
        return DataSize(rows, 3 * IMAGE_BYTES, f"{root}/data.csv", guess, False)
    store = open_store(root)
    index = open_index(store, recipe.data.index)
    each, where = index.shard_bytes / max(1, len(index)), f"the index of {root}"
    if not triplets:
        return DataSize(len(index), each, where, where, False)
    rows = _rows(read_table(store, len(index)), recipe)
    return DataSize(rows, 3 * each, f"{root}/triplets.csv", where, False)


def _rows(table: TripletTable, recipe: Recipe) -> int:
    """Triplets that a run would read."""
    from pineco.data_pipeline.triplets.rows import RowChoice, choose_rows

    data = recipe.data
    assert isinstance(data, TripletSettings)
    choice = RowChoice(split=data.split, min_votes=data.min_votes, ties=data.ties, share=data.share, seed=recipe.seed)
    return len(choose_rows(table, choice).rows)
