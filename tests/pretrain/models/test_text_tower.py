"""Text towers that do not start at random: another CLIP's, or a language model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.models.clip import build_clip, load_text_tower, tokenizer
from pineco.pretrain.objectives.clip import Clip
from pineco.pretrain.recipe.load import load_recipe
from tests.support.ranks import TINY_CLIP


def _weights(seed: int, folder: Path) -> Path:
    path = folder / "open_clip_model.safetensors"
    save_file(build_clip(TINY_CLIP, seed).state_dict(), path)
    return path


def _clip(*overrides: str) -> Clip:
    return Clip(load_recipe("clip_toy", [f"model={TINY_CLIP}", "seed=0", *overrides]), RankInfo())


@pytest.mark.parametrize("folder", [True, False])
def test_only_the_text_tower_is_taken(folder: bool, tmp_path: Path) -> None:
    """The image tower would no longer start as the baseline's does, and the comparison be void."""
    path = _weights(7, tmp_path)
    other, plain = build_clip(TINY_CLIP, 7).state_dict(), _clip().model.state_dict()
    found = _clip(f"objective.text_weights={tmp_path if folder else path}").model.state_dict()
    for name, tensor in found.items():
        own = name.startswith("visual.") or name == "logit_scale"
        assert torch.equal(tensor, (plain if own else other)[name]), name


def test_it_survives_a_first_stage(tmp_path: Path) -> None:
    """After perceptual initialisation the text tower would be the random one that the first stage exported."""
    clip = _clip(f"objective.text_weights={_weights(7, tmp_path)}")
    clip.adopt(build_clip(TINY_CLIP, 3).state_dict())
    other, first = build_clip(TINY_CLIP, 7).state_dict(), build_clip(TINY_CLIP, 3).state_dict()
    assert torch.equal(clip.model.token_embedding.weight, other["token_embedding.weight"])
    assert torch.equal(clip.model.visual.conv1.weight, first["visual.conv1.weight"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "nowhere", "no .safetensors file, and no export directory"),
        (lambda d: _cut(d), "cannot be read"),
        (lambda d: _smaller(d), "of another text tower, see"),
    ],
)
def test_what_does_not_fit_is_one_line(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    """A run would stop with a traceback, or start from a tower that was taken in part."""
    with pytest.raises(InputError, match=message):
        load_text_tower(build_clip(TINY_CLIP, 0), str(make(tmp_path)))


def _cut(folder: Path) -> Path:
    path = _weights(0, folder)
    path.write_bytes(path.read_bytes()[:1000])
    return path


def _smaller(folder: Path) -> Path:
    path = folder / "other.safetensors"
    save_file({"token_embedding.weight": torch.zeros(5, 32)}, path)
    return path


def test_a_language_model_in_a_folder_is_a_text_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text tower that knows language, which reviewers asked for, could not be had; or start at random in silence."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    language = BertModel(BertConfig(vocab_size=len(words), **sizes))
    language.save_pretrained(tmp_path)
    config = json.loads(Path(TINY_CLIP).read_text())
    config["text_cfg"] = {
        "hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path), "hf_pooler_type": "mean_pooler"
    }  # fmt: skip
    path = tmp_path / "clip_with_bert.json"
    path.write_text(json.dumps(config))
    clip = build_clip(str(path), 0)
    known = language.state_dict()
    shared = {k: v for k, v in clip.text.transformer.state_dict().items() if k in known}
    assert len(shared) > 10
    assert all(torch.equal(tensor, known[name]) for name, tensor in shared.items())
    assert clip.encode_text(tokenizer(str(path))(["a red star"])).shape == (1, config["embed_dim"])
