"""Backbones of timm: their features, and what they cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.load import load_model

NAME = "test_vit"  # timm's smallest


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_file(timm.create_model(NAME).state_dict(), path)
    return path


def test_features_are_those_of_stock_timm(weights: Path) -> None:
    """Dense and nearest-neighbour figures would be of another network than the one that was named."""
    encoder = load_model(f"timm:{NAME}:{weights}")
    model: Any = timm.create_model(NAME, checkpoint_path=str(weights)).eval()
    model.reset_classifier(0)
    photo = Image.effect_noise((90, 60), 80).convert("RGB")
    pixels = encoder.preprocess(photo)[None]
    assert pixels.shape[1:] == model.pretrained_cfg["input_size"]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model(pixels), dim=-1)
    assert torch.equal(encoder.embed(pixels), expected)
    assert encoder.identity.startswith("sha256:")


def test_random_weights_are_the_same_everywhere() -> None:
    """A baseline at chance would differ from run to run, or change the random state of the program around it."""
    before = torch.random.get_rng_state()
    pixels = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    one, two = (load_model(f"timm:{NAME}") for _ in range(2))
    assert torch.equal(one.embed(pixels), two.embed(pixels))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "random" in one.identity


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:tset_vit", "timm has no 'tset_vit'; nearest model is timm:test_vit"),
        ("timm:test_vit:nowhere.safetensors", "no weights file nowhere.safetensors"),
        ("timm:test_vit:{folder}/weights.pth", "is no .safetensors file; others may hold code"),
        ("timm:test_vit2:{folder}/weights.safetensors", "timm cannot load it"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(model: str, message: str, weights: Path) -> None:
    """A typing error would end in a traceback, or in random weights."""
    weights.with_suffix(".pth").write_bytes(b"anything")
    with pytest.raises(InputError) as caught:
        load_model(model.format(folder=weights.parent))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zero_shot_needs_a_text_tower() -> None:
    """Chance figures would be reported for a model that cannot read."""
    model = load_model(f"timm:{NAME}")
    for read in (lambda: model.tokenizer(["a dog"]), lambda: model.encode_texts(torch.zeros(1, 77, dtype=torch.long))):
        with pytest.raises(InputError, match=f"timm:{NAME} .*has no text tower"):
            read()
