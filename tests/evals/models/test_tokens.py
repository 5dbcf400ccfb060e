"""Patch tokens: which ones models give, at any size of images, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torchvision import transforms

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.load import load_model
from pineco.evals.models.model import check_size

NAME = "test_vit"  # timm's smallest


def pixels(size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: Any = timm.create_model(NAME)
        torch.nn.init.normal_(model.pos_embed)  # large, so that positions matter
        save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", [160, 64, 208])
def test_tokens_are_those_of_stock_timm_at_any_size(size: int, registers: int, weights: Path, tmp_path: Path) -> None:
    """Class and register tokens would count as patches, or a patch would be taken for its neighbour."""
    options: dict[str, Any] = {
        "reg_tokens": registers,
        "no_embed_class": registers > 0,
    }  # as DINOv2 with registers has it
    export, tensors = _export(tmp_path / "export", weights, model_args=options), load_file(weights)
    del tensors["head.weight"], tensors["head.bias"]
    if registers:
        tensors["reg_token"] = torch.randn(1, registers, 64, generator=torch.Generator().manual_seed(4))
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:].contiguous()
        save_file(tensors, export / "model.safetensors")
    encoder = load_model(str(export))
    embedded = 0 if registers else 1
    tensors["pos_embed"] = resample_abs_pos_embed(tensors["pos_embed"], [size // 16] * 2, num_prefix_tokens=embedded)
    stock: Any = timm.create_model(NAME, img_size=size, num_classes=0, **options).eval()
    stock.load_state_dict(tensors)
    with torch.no_grad():
        [(expected, prefix)] = stock.forward_intermediates(
            pixels(size), indices=1, norm=True, intermediates_only=True, return_prefix_tokens=True
        )
    assert prefix.shape[1] == 1 + registers
    found = encoder.tokens(pixels(size))
    assert found.shape == (2, size // 16, size // 16, 64)
    assert torch.allclose(found, expected.permute(0, 2, 3, 1), atol=1e-5)
    assert encoder.identity.startswith("sha256:")


def test_dinov2_with_registers_at_a_small_size() -> None:
    """NeCo's own backbone could not be measured, at any size but 518 pixels."""
    encoder = load_model("timm:vit_small_patch14_reg4_dinov2")
    assert (encoder.patch_size, encoder.width) == (14, 384)
    assert encoder.tokens(pixels(56, batch=1)).shape == (1, 4, 4, 384)


def test_a_patch_is_where_it_is_in_the_image(weights: Path) -> None:
    """Rows and columns of patches would be swapped: every mask would be mirrored on its diagonal."""
    encoder = load_model(f"timm:{NAME}:{weights}")
    images = torch.zeros(1, 3, 96, 64)
    changed = images.clone()
    patch = encoder.patch_size
    changed[0, :, 4 * patch : 5 * patch, patch : 2 * patch] = 3
    moved = (encoder.tokens(changed) - encoder.tokens(images)).norm(dim=-1)[0]
    assert moved.shape == (96 // patch, 64 // patch)
    assert divmod(int(moved.argmax()), moved.shape[1]) == (4, 1)


def test_an_image_is_squashed_and_normalised_as_the_model_wants(weights: Path) -> None:
    """Features would be of images that the model was not made for."""
    encoder = load_model(f"timm:{NAME}:{weights}")
    photo = Image.effect_noise((90, 60), 80).convert("RGB")
    stock: Any = timm.create_model(NAME)
    mean, std = (stock.pretrained_cfg[name] for name in ("mean", "std"))
    resize = transforms.Resize((64, 64), transforms.InterpolationMode.BICUBIC)
    expected = transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(mean, std)])(photo)
    assert torch.allclose(encoder.squash(photo, 64), expected, atol=1e-6)


def _export(folder: Path, weights: Path, **config: object) -> Path:
    folder.mkdir()
    tensors = {n: t for n, t in load_file(weights).items() if not n.startswith("head.")}
    save_file(tensors, folder / "model.safetensors")
    content = {"architecture": NAME, "num_classes": 0, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5] * 3}}
    (folder / "config.json").write_text(json.dumps(content | config))
    return folder


def test_an_export_in_timms_format_is_the_same_model(weights: Path, tmp_path: Path) -> None:
    """What post-pretraining writes would be measured as another network, or with another mean and deviation."""
    export = _export(tmp_path / "export", weights)
    encoder, other = load_model(str(export)), load_model(f"timm:{NAME}:{weights}")
    assert torch.equal(encoder.tokens(pixels(64)), other.tokens(pixels(64)))
    black = encoder.squash(Image.new("RGB", (8, 8)), 16)
    assert black[:, 0, 0].tolist() == pytest.approx([-0.2, -0.4, -0.6])
    assert encoder.identity.startswith("sha256:")


def test_the_model_arguments_of_an_export_count(weights: Path, tmp_path: Path) -> None:
    """An export of a model made for another size of images could not be loaded."""
    with torch.random.fork_rng():
        model: Any = timm.create_model(NAME, img_size=64, num_classes=0)
    export = _export(tmp_path / "export", weights, model_args={"img_size": 64})
    save_file(model.state_dict(), export / "model.safetensors")
    with torch.no_grad():
        expected = model.eval().forward_features(pixels(64))[:, model.num_prefix_tokens :]
    assert torch.allclose(load_model(str(export)).tokens(pixels(64)).flatten(1, 2), expected, atol=1e-5)


@pytest.mark.parametrize("size", [32, 48, 16])
def test_tokens_of_an_open_clip_export_at_any_size(size: int, export_dir: Path) -> None:
    """Our own runs could be measured at their training size only, or with positions that are off."""
    import open_clip

    encoder = load_model(str(export_dir))
    with torch.random.fork_rng():
        stock = open_clip.create_model(f"local-dir:{export_dir}", force_image_size=size).visual.eval()
    with torch.no_grad():
        expected = stock.forward_intermediates(
            pixels(size), indices=1, normalize_intermediates=True, intermediates_only=True
        )["image_intermediates"][0]
    found = encoder.tokens(pixels(size))
    assert found.shape == (2, size // 8, size // 8, 64)
    assert torch.allclose(found, expected.permute(0, 2, 3, 1), atol=1e-4)
    assert encoder.squash(Image.new("RGB", (9, 5)), 16)[:, 0, 0].tolist() == pytest.approx([-2.5, -4 / 3, -0.75])


def test_bf16_is_near_fp32_and_random_weights_are_the_same_everywhere(weights: Path) -> None:
    """The two precisions would be of two models; a baseline would differ from run to run."""
    one, two = (load_model(f"timm:{NAME}:{weights}", precision=p) for p in ("fp32", "bf16"))
    a, b = one.tokens(pixels(64)), two.tokens(pixels(64))
    assert a.dtype == b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert torch.nn.functional.cosine_similarity(a, b, dim=-1).min() > 0.99
    before = torch.random.get_rng_state()
    first, second = (load_model(f"timm:{NAME}").tokens(pixels(32)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:tset_vit", "nearest model is timm:test_vit"),
        ("timm:test_convnext", "it has no patch tokens; use a ViT"),
        ("timm:test_vit:nowhere.safetensors", "no weights file"),
        ("nowhere", "neither a directory, timm:NAME[:WEIGHTS] nor an open_clip model"),
        ("{folder}/empty", "holds no model.safetensors"),
        ("{folder}/json", "no JSON"),
        ("{folder}/unknown", "its architecture, 'os.system', is none of timm's"),
        ("{folder}/none", "its architecture, None, is none of timm's"),
        ("{folder}/list", "its architecture, None, is none of timm's"),
        ("{folder}/arguments", "model_args must be a JSON object"),
        ("{folder}/unfit", "timm cannot load it"),
        ("{folder}/convnext", "it has no patch tokens; use a ViT"),
        ("{folder}/half", "holds no open_clip_model.safetensors"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(model: str, message: str, weights: Path, tmp_path: Path) -> None:
    """A typing error would end in a traceback, or in random weights."""
    (_export(tmp_path / "empty", weights) / "model.safetensors").unlink()
    (_export(tmp_path / "json", weights) / "config.json").write_text("{")
    _export(tmp_path / "unknown", weights, architecture="os.system")
    (_export(tmp_path / "none", weights) / "config.json").write_text("{}")
    (_export(tmp_path / "list", weights) / "config.json").write_text("[1]")
    _export(tmp_path / "arguments", weights, model_args=[1])
    _export(tmp_path / "unfit", weights, architecture="test_vit3")
    convnext = _export(tmp_path / "convnext", weights, architecture="test_convnext")
    save_file(timm.create_model("test_convnext", num_classes=0).state_dict(), convnext / "model.safetensors")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        load_model(model.format(folder=tmp_path)).require("tokens")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("device", "message"), [("tpu9", "no such kind of device"), ("cuda:99", "visible here")])
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    """It would be a traceback of PyTorch's, after everything was loaded."""
    with pytest.raises(InputError, match=message):
        load_model(f"timm:{NAME}", device=device)


@pytest.mark.parametrize(("size", "near"), [(240, "238 or 252"), (10, "nearest is 14"), (15, "14 or 28")])
def test_a_size_that_is_no_whole_number_of_patches_is_refused(size: int, near: str) -> None:
    """Patches and their labels would lie over different pixels."""
    check_size(28, 14)
    with pytest.raises(InputError, match=near):
        check_size(size, 14)
