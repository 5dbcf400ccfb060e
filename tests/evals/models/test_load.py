"""One address for every model: what each kind can do, what the others say, how addresses are told apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import pineco
from pineco.data_pipeline.errors import InputError
from pineco.evals.models.load import load_model
from pineco.evals.models.model import Model
from tests.support.coloured_sets import TINY_CONFIG

VIT = "timm:test_vit"  # timm's smallest


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.fixture(scope="module")
def timm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timm")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_file(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "model.safetensors")
    shown = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "input_size": [3, 160, 160]}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": shown}))
    return folder


@pytest.fixture(scope="module")
def resnet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip model whose image tower has no tokens."""
    folder = tmp_path_factory.mktemp("resnet")
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    config = TINY_CONFIG | {"vision_cfg": vision}
    with torch.random.fork_rng():
        model = open_clip.CLIP(**json.loads(json.dumps(config)))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


def test_the_public_name_is_this_function() -> None:
    """What the docstring of the package promises would be another function, or none."""
    assert pineco.load_model is load_model


def test_every_kind_of_address_says_what_it_can_do(export_dir: Path, timm_dir: Path, resnet_dir: Path) -> None:
    """An evaluation could not refuse a model before hours of work, or would refuse one that fits."""
    vit, everything = {"image", "tokens", "class_token"}, {"image", "tokens", "class_token", "text"}
    expected: dict[str | Path, set[str]] = {
        export_dir: everything,
        f"local-dir:{export_dir}": everything,
        resnet_dir: {"image", "text"},
        timm_dir: vit,
        f"local-dir:{timm_dir}": vit,
        VIT: vit,
        f"{VIT}:{timm_dir / 'model.safetensors'}": vit,
        "timm:vit_wee_patch16_reg1_gap_256": {"image", "tokens"},
        "timm:test_convnext": {"image"},
    }
    for address, capabilities in expected.items():
        model = load_model(address)
        assert model.capabilities == capabilities, address
        found = model.embed(images(model.image_size))
        assert (found.dtype, found.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)
        if "tokens" in capabilities:
            side = 2 * model.patch_size
            assert model.tokens(images(side)).shape == (2, 2, 2, model.width)
            everything_seen = model.forward_tokens(images(side))
            assert everything_seen.shape == (2, model.num_prefix_tokens + 4, model.width)
        if "text" in capabilities:
            assert model.encode_texts(model.tokenizer(["a", "b b"])).shape == found.shape


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.tokens(images(32)), "no patch tokens; use a ViT"),
        (lambda model: model.forward_tokens(images(32)), "no patch tokens"),
        (lambda model: model.patch_size, "no patch tokens"),
        (lambda model: model.width, "no patch tokens"),
        (lambda model: model.num_prefix_tokens, "no patch tokens"),
        (lambda model: model.require("class_token"), "no class token"),
        (lambda model: model.tokenizer, "no text tower"),
        (lambda model: model.encode_texts(torch.zeros(1, 77, dtype=torch.long)), "no text tower"),
    ],
)
def test_what_a_model_cannot_do_names_the_model(ask: Callable[[Model], object], message: str) -> None:
    """It would be a traceback about None, in the middle of an evaluation."""
    model = load_model("timm:test_convnext")
    with pytest.raises(InputError, match=rf"timm:test_convnext \(random weights\): it has {message}") as caught:
        ask(model)
    assert "\n" not in str(caught.value)


def test_patches_that_are_not_square_are_refused_where_they_matter(timm_dir: Path, tmp_path: Path) -> None:
    """Masks would lie over other pixels than their patches; or a model could not even be measured zero-shot."""
    with torch.random.fork_rng():
        module = timm.create_model("test_vit", num_classes=0, patch_size=(16, 8))
    folder = tmp_path / "oblong"
    folder.mkdir()
    save_file(module.state_dict(), folder / "model.safetensors")
    content = {"architecture": "test_vit", "model_args": {"patch_size": [16, 8]}}
    (folder / "config.json").write_text(json.dumps(content))
    model = load_model(folder)
    assert model.embed(images(model.image_size)).shape == (2, 64)
    with pytest.raises(InputError, match="patches of 16 x 8 pixels; they must be square"):
        model.tokens(images(32))


def test_a_model_of_one_size_names_it(tmp_path: Path) -> None:
    """Relative positions are of one grid: another one would end in a traceback of timm's."""
    options: dict[str, Any] = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0}
    with torch.random.fork_rng():
        module = timm.create_model("beit_base_patch16_224", **options)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    shown = {"input_size": [3, 32, 32]}
    content = {"architecture": "beit_base_patch16_224", "model_args": options, "pretrained_cfg": shown}
    (tmp_path / "config.json").write_text(json.dumps(content))
    model = load_model(tmp_path)
    assert model.tokens(images(32)).shape == (2, 2, 2, 32)
    with pytest.raises(InputError, match=r"images of 64 x 64 pixels; it takes 32 x 32 alone"):
        model.tokens(images(64))


def test_a_directory_of_timms_is_stock_timm(timm_dir: Path) -> None:
    """The images of a probe would be prepared by other numbers than those of the directory."""
    model = load_model(timm_dir)
    with torch.random.fork_rng():
        weights = str(timm_dir / "model.safetensors")
        stock: Any = timm.create_model("test_vit", num_classes=0, checkpoint_path=weights).eval()
    shown = {**stock.pretrained_cfg, **json.loads((timm_dir / "config.json").read_text())["pretrained_cfg"]}
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=shown), is_training=False)
    photo = Image.effect_noise((90, 60), 80).convert("RGB")
    pixels = model.preprocess(photo)
    assert torch.equal(pixels, transform(photo))
    with torch.no_grad():
        expected = torch.nn.functional.normalize(stock(pixels[None]), dim=-1)
    assert torch.equal(model.embed(pixels[None]), expected)
    black = model.preprocess(Image.new("RGB", (200, 200)))
    assert torch.allclose(black, model.normalise(torch.zeros(3, 160, 160)))


def test_a_directory_of_both_kinds_is_open_clips(export_dir: Path, timm_dir: Path, tmp_path: Path) -> None:
    """open_clip's own repositories hold a config.json beside open_clip_config.json."""
    folder = tmp_path / "both"
    shutil.copytree(export_dir, folder)
    shutil.copytree(timm_dir, folder, dirs_exist_ok=True)
    assert load_model(folder).identity == load_model(export_dir).identity


def test_a_directory_of_no_kind_names_both(tmp_path: Path) -> None:
    """The user would look for the one file that their kind of model never has."""
    with pytest.raises(
        InputError, match=r"holds no open_clip_config\.json and no config\.json; name an export directory"
    ):
        load_model(tmp_path)


def test_images_need_no_tokenizer(export_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose tokenizer is a download could not be segmented without a network."""

    def fails(name: str) -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(open_clip, "get_tokenizer", fails)
    model = load_model(export_dir)
    assert model.tokens(images(32)).shape == (2, 4, 4, 64)
    with pytest.raises(InputError, match=r"open_clip cannot load it \(OSError: no network\)"):
        model.tokenizer(["a dog"])


def test_gradients_reach_the_images_through_the_bare_functions(export_dir: Path) -> None:
    """No loss could be made of a model's features."""
    model = load_model(export_dir)
    pixels = images(32).requires_grad_()
    (model.forward_image(pixels).sum() + model.forward_tokens(pixels, norm=False).sum()).backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert not model.embed(pixels).requires_grad
