"""Captions of triplets: the prompt of each in its sentence, as tokens beside its images; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pineco.data_pipeline.batches import CaptionedTripletBatch, TripletBatch
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.triplets.caption_template import check_template, fill_template
from pineco.data_pipeline.triplets.table import NIGHTS_COLUMNS, PROMPT
from tests.support.triplet_files import load, make_source, row, write_prompts, write_triplets

LENGTH = 24  # of the tokens: the UTF-8 bytes of a caption


def spell(texts: list[str]) -> Tensor:
    """A tokenizer that a test can read back."""
    return torch.tensor([list(text.encode().ljust(LENGTH, b"\0")) for text in texts])


def said(tokens: Tensor) -> list[str]:
    return [bytes(line).rstrip(b"\0").decode() for line in tokens.tolist()]


def captioned(root: Path, **options: Any) -> Any:
    return make_source(root, tokenize=spell, **options)


def test_captions_come_with_their_own_images(tmp_path: Path) -> None:
    """A text tower would learn what other images were generated from, and the log not say how many texts there are."""
    source = captioned(write_prompts(tmp_path, ["wasp", "a {}", "wasp", "grün"]), caption="an image of {}.")
    batch = load(source, np.array([3, 1, 2]))
    assert isinstance(batch, CaptionedTripletBatch)
    assert (batch.tokens.shape, batch.tokens.dtype) == ((3, LENGTH), torch.int64)
    assert said(batch.tokens) == ["an image of grün.", "an image of a {}.", "an image of wasp."]
    assert batch.reference[:, 0, 0, 0].tolist() == [9, 3, 6]
    assert torch.equal(batch.to(torch.device("cpu")).tokens, batch.tokens)
    assert source.describe().endswith("4 of 4 triplets of split 'train', with 3 different prompts")


def test_rows_that_are_left_out_take_their_prompts_along(tmp_path: Path) -> None:
    """Prompts would be counted over the whole table, and every one behind a row that is left out be another's."""
    rows = [row(i, right_vote=0.5 if i == 1 else 1, split="val" if i == 2 else "train") for i in range(5)]
    rows = [r | {PROMPT: p} for r, p in zip(rows, ["zero", "", "", "three", "four"], strict=True)]
    source = captioned(write_triplets(tmp_path, rows, (*NIGHTS_COLUMNS, PROMPT)))
    batch = load(source, np.arange(3))
    assert isinstance(batch, CaptionedTripletBatch)
    assert said(batch.tokens) == ["zero", "three", "four"]


def test_shuffled_votes_leave_prompts_with_their_images(tmp_path: Path) -> None:
    """The control would differ from the experiment in its texts, too."""
    write_prompts(tmp_path, [f"item {i}" for i in range(30)])
    real, control = (load(captioned(tmp_path, shuffled=s), np.arange(30)) for s in (False, True))
    assert isinstance(real, CaptionedTripletBatch)
    assert isinstance(control, CaptionedTripletBatch)
    assert said(control.tokens) == [f"item {n // 3}" for n in control.reference[:, 0, 0, 0].tolist()]
    assert torch.equal(real.tokens, control.tokens)
    assert real.right_vote.eq(control.right_vote).sum() <= 4  # 1 expected


def test_a_substitute_brings_its_own_prompt(tmp_path: Path) -> None:
    """D2: the images that take a damaged triplet's place would be called what the damaged one was."""
    source = captioned(write_prompts(tmp_path, [f"item {i}" for i in range(6)]))
    (tmp_path / "right" / "3.png").write_bytes(b"GIF89a")
    loader = Loader(source, batch_size=6, lanes=2, seed=0, settings=LoaderSettings(bad_share=1.0))
    batches = loader.iterate(DataPosition())
    _, batch = next(batches)
    batches.close()
    assert isinstance(batch, CaptionedTripletBatch)
    assert 3 not in batch.samples.tolist()
    assert said(batch.tokens) == [f"item {n}" for n in batch.samples.tolist()]


def test_without_a_tokenizer_prompts_are_not_asked_for(tmp_path: Path) -> None:
    """Every run on triplets would need prompts, and its batches carry what nobody reads."""
    source = make_source(write_prompts(tmp_path, ["", ""]))
    assert type(load(source, np.arange(2))) is TripletBatch
    assert "prompt" not in source.describe()


def test_a_table_without_prompts_is_one_line(tmp_path: Path) -> None:
    """A run would fail deep in the code, and nobody would know where prompts come from."""
    write_triplets(tmp_path, [row(0)])
    with pytest.raises(InputError) as caught:
        captioned(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/data.csv: no column prompt, which captions are made of; ")
    assert all(part in text for part in ("pineco data prepare", "toy world", "objective.caption_weight=0"))
    assert "\n" not in text


def test_an_empty_prompt_is_named_with_its_line(tmp_path: Path) -> None:
    """The bare sentence would be learnt as the name of an image."""
    write_prompts(tmp_path, ["wasp", "wasp", " ", "wasp", ""])
    with pytest.raises(InputError, match=r"data\.csv: line 4: the prompt is empty, as of 2 of 5 rows") as caught:
        captioned(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", ["", "an image", "{} {}", "{0}", "{c}"])
def test_a_template_without_one_place_is_refused(tmp_path: Path, template: str) -> None:
    """All images would have one caption, or a prompt stand in it twice."""
    with pytest.raises(InputError, match=r"data\.caption is .* must stand in it once") as caught:
        captioned(write_prompts(tmp_path, ["wasp"]), caption=template)
    assert "\n" not in str(caught.value)


def test_other_braces_stay(tmp_path: Path) -> None:
    """S1: a prompt of a downloaded table could reach into the program, or stop it."""
    check_template("{name} {} {0}", "recipe")
    assert fill_template("{name} {} {0}", "{}{0.__class__}") == "{name} {}{0.__class__} {0}"
