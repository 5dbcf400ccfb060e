"""Texts without their padding give what the whole context gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from pineco.evals.models.short_text import ShortText
from tests.support.coloured_sets import TINY_CONFIG

TEXTS = ["a dog", "a blurry photo of the hard to see american alligator", "", "word " * 100]


def tiny(custom: bool, **text: Any) -> Any:
    """A CLIP of open_clip, of either class."""
    config = json.loads(json.dumps(TINY_CONFIG))
    config["text_cfg"] |= text
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = kind(**config).eval()
        for parameter in model.parameters():
            parameter.data.mul_(3)  # so that attention differs between tokens
    return model


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[:3], TEXTS])
def test_a_cut_text_has_the_feature_of_a_whole_one(custom: bool, texts: list[str]) -> None:
    """Class embeddings would be of other prompts than the benchmark's."""
    model = tiny(custom)
    short, tokens = ShortText(model), open_clip.tokenize(texts)
    with torch.no_grad():
        whole, cut = model.encode_text(tokens), short.encode(tokens)
    assert torch.allclose(cut, whole, rtol=0, atol=1e-6 * float(whole.abs().max()))
    assert short.length(tokens) == {1: 4, 3: 12, 4: 77}[len(texts)]
    assert torch.equal(model.encode_text(tokens), whole), "the model was changed"


@pytest.mark.parametrize(
    "settings",
    [{"no_causal_mask": True}, {"embed_cls": True}, {"pool_type": "last"}],
)
def test_towers_that_see_the_padding_get_all_of_it(settings: dict[str, Any]) -> None:
    """A tower without a causal mask, or that reads elsewhere, would be measured on texts that it was not trained on."""
    model = tiny(True, **settings)
    short, tokens = ShortText(model), open_clip.tokenize(TEXTS[:2])
    tokens = tokens[:, :-1] if settings.get("embed_cls") else tokens  # the tower adds its own
    assert short.length(tokens) == tokens.shape[1]
    with torch.no_grad():
        assert torch.equal(short.encode(tokens), model.encode_text(tokens))


def test_another_mark_of_the_end(tmp_path: Path) -> None:
    """A tokenizer whose end of text is not its highest number would be cut at the wrong place."""
    model = tiny(True, pool_type="eos", eos_id=7)
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    tokens[0, :5] = torch.tensor([1, 900, 901, 902, 7])
    tokens[1, :3] = torch.tensor([1, 950, 7])
    short = ShortText(model)
    assert short.length(tokens) == 5
    with torch.no_grad():
        assert torch.allclose(short.encode(tokens), model.encode_text(tokens), rtol=0, atol=1e-5)
