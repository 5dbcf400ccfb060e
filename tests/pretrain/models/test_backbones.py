"""Backbones: what is trained is what stock libraries load, at every size of crop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.models.backbones import Backbone, build_backbone, resample_positions
from tests.support.ranks import TINY_CLIP


def timm_backbone(weights: Path | None = None, size: int = 32) -> Backbone:
    given = None if weights is None else str(weights)
    return build_backbone("timm:test_vit", 0, weights=given, image_size=size, drop_path=0.0)


def clip_backbone() -> Backbone:
    return build_backbone(TINY_CLIP, 0, weights=None, image_size=32, drop_path=0.0)


def write_export(backbone: Backbone, folder: Path) -> Path:
    folder.mkdir()
    for name, write in (
        (backbone.export.config_file, lambda path: path.write_text(backbone.export.config)),
        (backbone.export.weights_file, lambda path: save_file(backbone.module.state_dict(), path)),
    ):
        write(folder / Path(name).name)
    return folder


def test_stock_timm_loads_the_export(tmp_path: Path) -> None:
    """The student could be used by nobody else."""
    backbone = timm_backbone()
    folder = write_export(backbone, tmp_path / "export")
    stock: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for size in (32, 64):
        pixels = torch.randn(2, 3, size, size)
        with torch.no_grad():
            ours = backbone.tokens(backbone.module.eval(), pixels)
            theirs = stock.forward_features(pixels)[:, stock.num_prefix_tokens :]
        assert torch.equal(ours.flatten(2).transpose(1, 2), theirs)
    assert tuple(stock.pretrained_cfg["mean"]) == tuple(backbone.mean)


def test_an_export_is_a_start(tmp_path: Path) -> None:
    """A run could not start from what another one made."""
    first = timm_backbone()
    with torch.no_grad():
        first.module.patch_embed.proj.weight.mul_(2)
    second = timm_backbone(write_export(first, tmp_path / "export"))
    for name, tensor in second.module.state_dict().items():
        assert torch.equal(tensor, first.module.state_dict()[name]), name


def test_weights_of_another_size_are_resampled(tmp_path: Path) -> None:
    """Weights that were published for 518 px would be refused at 224, or their positions be random."""
    large = timm_backbone(size=64)
    save_file(large.module.state_dict(), tmp_path / "large.safetensors")
    small = timm_backbone(tmp_path / "large.safetensors", size=32)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        a = large.tokens(large.module.eval(), pixels)
        b = small.tokens(small.module.eval(), pixels)
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "nowhere.safetensors", "no .safetensors file, and no export directory"),
        (lambda d: d / "other.safetensors", "of another model: lacks"),
        (lambda d: d / "weights.pth", "no .safetensors file, and no export directory"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    """A part of the backbone would stay random, and nobody would know."""
    weights = timm_backbone().module.state_dict()
    save_file({name: t for name, t in weights.items() if "blocks.0" not in name}, tmp_path / "other.safetensors")
    (tmp_path / "weights.pth").write_bytes(b"anything")
    with pytest.raises(InputError) as caught:
        timm_backbone(make(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_patch_tokens_of_a_clip_are_open_clips_own() -> None:
    """Patches would be read before the last norm, or in another order."""
    backbone = clip_backbone()
    visual = backbone.module.eval().visual
    side = visual.image_size[0]
    pixels = torch.randn(2, 3, side, side)
    visual.output_tokens = True
    with torch.no_grad():
        _, tokens = visual(pixels)
        visual.output_tokens = False
        found = backbone.tokens(backbone.module, pixels)
    assert torch.equal(found.flatten(2).transpose(1, 2), tokens)
    assert visual.output_tokens is False
    assert backbone.tokens(backbone.module, pixels[:, :, : side // 2, : side // 2]).shape[2:] == (side // 2 // 8,) * 2


def test_positions_keep_their_place() -> None:
    """A crop of another size would see its patches shifted, or mirrored."""
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    positions = torch.cat((torch.tensor([[9.0, 9.0]]), torch.stack((rows.flatten(), columns.flatten()), dim=1)))
    assert resample_positions(positions, (4, 4)) is positions
    grid = resample_positions(positions, (8, 8))[1:].view(8, 8, 2)
    assert torch.equal(resample_positions(positions, (8, 8))[0], positions[0])
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()


@pytest.mark.parametrize("make", [timm_backbone, clip_backbone])
def test_attention_is_that_of_the_last_block(make: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """Foreground would be that of another layer, or of the patches' own attention."""
    backbone = make()
    module = backbone.module.eval()
    pixels = torch.randn(2, 3, 32, 32)
    seen = []
    plain = F.scaled_dot_product_attention

    def watch(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scale = kwargs.get("scale") or q.shape[-1] ** -0.5
        seen.append((q * scale @ k.transpose(-2, -1)).softmax(dim=-1))
        return plain(q, k, v, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    with torch.no_grad():
        tokens, attention = backbone.tokens_and_attention(module, pixels)
    assert attention.shape == (2, *tokens.shape[2:])
    expected = seen[-1].view(2, -1, *seen[-1].shape[-2:])[:, :, 0].mean(dim=1)[:, -tokens[0, 0].numel() :]
    assert torch.allclose(attention.flatten(1), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "drop_path", "message"),
    [
        ("timm:tset_vit", 0.0, "timm has no such model"),
        ("timm:resnet18", 0.0, "no vision transformer"),
        (TINY_CLIP, 0.1, "open_clip's towers have none; set it to 0"),
        ("RN50", 0.0, "no vision transformer"),
    ],
)
def test_backbones_that_cannot_be(name: str, drop_path: float, message: str) -> None:
    """A run would end in a traceback, or train something else than was asked for."""
    with pytest.raises(InputError, match=message):
        build_backbone(name, 0, weights=None, image_size=32, drop_path=drop_path)
