"""From a recipe to its data: what the recipe says of triplets reaches the data set, and the log hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pineco.data_pipeline.batches import CaptionedTripletBatch, TripletBatch
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.loader import DataPosition, Loader
from pineco.launch.train.inputs import build_loader, describe_data
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.models.clip import tokenizer
from pineco.pretrain.recipe.load import load_recipe
from tests.support.triplet_files import row, write_prompts, write_triplets


def make_loader(root: Path, *overrides: str) -> Loader[Any]:
    """Of eight triplets with a judgement, one tie, and one with few votes."""
    rows = [row(i, votes=1 if i == 3 else 7, right_vote=0.5 if i == 5 else 0.25) for i in range(10)]
    write_triplets(root, rows)
    few = ("data.batch_size=2", "data.lanes=2", "data.workers=1", "data.connections=1")
    recipe = load_recipe("pi_toy", [f"data.root={root}", *few, *overrides])
    return build_loader(recipe, RankInfo(0, 1, 0), ledger=root / "bad.jsonl", pin=False)


def test_settings_of_triplets_reach_the_data(tmp_path: Path) -> None:
    """A run would read all triplets while its recipe says a share, and its log not say what it reads."""
    loader = make_loader(tmp_path, "data.min_votes=2", "data.share=0.5", "data.shuffled=true")
    assert len(loader.source) == 4
    assert describe_data(loader) == (
        f"{tmp_path}/data.csv: 4 of 10 triplets of split 'train', without 1 with fewer than 2 votes, "
        "1 with equal votes, 4 beyond a share of 0.5, with shuffled votes"
    )
    with pytest.raises(InputError, match="1 of 9 rows with equal votes"):
        make_loader(tmp_path, "data.min_votes=2", "data.ties=refuse")


@pytest.mark.parametrize("override", ["data.share=0", "data.share=5", "data.ties=keep", "data.split=tset"])
def test_bad_settings_of_triplets_are_refused(tmp_path: Path, override: str) -> None:
    """A mistyped setting would be another experiment."""
    with pytest.raises(InputError, match=override.split("=")[0].removeprefix("data.")):
        make_loader(tmp_path, override)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_prompts_are_read_where_the_text_tower_is_trained(weight: float, tmp_path: Path) -> None:
    """The text tower would learn other sentences than the recipe's; or every first stage need prompts and read them."""
    write_prompts(tmp_path, [f"item {i}" for i in range(8)])
    few = ("data.batch_size=4", "data.lanes=2", "data.workers=1", f"objective.caption_weight={weight}")
    recipe = load_recipe("pi_toy", [f"data.root={tmp_path}", *few, "data.caption='a photo of {}.'"])
    batches = build_loader(recipe, RankInfo(), ledger=tmp_path / "bad.jsonl", pin=False).iterate(DataPosition())
    _, batch = next(batches)
    batches.close()
    assert type(batch) is (CaptionedTripletBatch if weight else TripletBatch)
    if isinstance(batch, CaptionedTripletBatch):
        sentences = [f"a photo of item {n}." for n in batch.samples.tolist()]
        assert torch.equal(batch.tokens, tokenizer(recipe.model)(sentences))
