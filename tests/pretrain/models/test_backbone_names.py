"""The published families by the names that timm has for them: the right grid, the right pixels, the right attention."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import QuickGELU

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.models.backbones import Backbone, TimmBackbone, build_backbone
from pineco.pretrain.models.import_weights import import_weights
from tests.support.ranks import TINY_CLIP
from tests.support.tiny_vits import CLIP, CLIP_QUICKGELU, DINO, DINOV2, DINOV2_REG, SIGLIP

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
DINOV2_NAMES = [
    f"vit_{size}_patch14_{kind}dinov2" for size, kind in itertools.product(("small", "base", "large"), ("", "reg4_"))
]
FAMILIES = [
    *((name, 14, (224, 98, 518), IMAGENET) for name in DINOV2_NAMES),
    ("vit_small_patch16_224.dino", 16, (224, 96), IMAGENET),
    ("vit_base_patch16_224.dino", 16, (224, 96), IMAGENET),  # the layers of SynCLR's ViT-B/16 too
    ("vit_base_patch32_clip_224.openai", 32, (224, 96), OPENAI),
    ("vit_base_patch32_clip_quickgelu_224.openai", 32, (224, 96), OPENAI),
    ("vit_base_patch16_clip_224.laion2b", 16, (224, 96), OPENAI),
    ("vit_large_patch14_clip_224.laion2b", 14, (224, 98), ((0.5,) * 3, (0.5,) * 3)),  # these weights alone
    ("vit_large_patch14_clip_quickgelu_336.openai", 14, (336, 98), OPENAI),
]
TINY = [DINO, DINOV2, DINOV2_REG, CLIP, CLIP_QUICKGELU]


def build(name: str, size: int = 32, weights: Path | None = None) -> Backbone:
    given = None if weights is None else str(weights)
    return build_backbone(name, 0, weights=given, image_size=size, drop_path=0.0)


def shaken(name: str) -> Backbone:
    """With weights of which no part is zero or alike."""
    backbone = build(name)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for parameter in backbone.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    backbone.module.eval()
    return backbone


@pytest.mark.parametrize(("name", "patch", "sizes", "pixels"), FAMILIES, ids=[family[0] for family in FAMILIES])
def test_every_published_name(name: str, patch: int, sizes: tuple[int, ...], pixels: Any) -> None:
    """A documented recipe would end in a traceback, or train on pixels of another scale."""
    with torch.device("meta"):
        backbone = build(f"timm:{name}", size=sizes[0])
        assert isinstance(backbone, TimmBackbone)
        for size in sizes:
            tokens = backbone.tokens(backbone.module, torch.empty(2, 3, size, size))
            assert tokens.shape == (2, backbone.width, size // patch, size // patch)
        _, attention = backbone.tokens_and_attention(backbone.module, torch.empty(2, 3, sizes[1], sizes[1]))
    assert attention.shape == (2, sizes[1] // patch, sizes[1] // patch)
    assert (backbone.patch, (tuple(backbone.mean), tuple(backbone.std))) == (patch, pixels)
    quick = [isinstance(block.mlp.act, QuickGELU) for block in backbone.module.blocks]
    assert quick == ["quickgelu" in name] * len(quick)
    assert isinstance(backbone.module.norm_pre, torch.nn.LayerNorm) == ("clip" in name)


@pytest.mark.parametrize("name", TINY)
def test_the_class_token_attends_to_all_tokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers would count as patches, or foreground be drawn from another softmax than the model's."""
    backbone, pixels = shaken(name), torch.randn(2, 3, 24, 24)
    seen = []
    plain = F.scaled_dot_product_attention

    def watch(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0])
        return plain(q, k, v, *args, **kwargs)

    attending, weights = backbone.attention_inputs(backbone.module)
    inputs: list[Any] = []
    handle = attending.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    with torch.no_grad():
        _, attention = backbone.tokens_and_attention(backbone.module, pixels)
        all_tokens = weights(inputs[0])
    handle.remove()
    assert len(seen) == len(backbone.blocks())
    assert all_tokens.shape == (2, 2, backbone.module.num_prefix_tokens + 9)
    torch.testing.assert_close(all_tokens.sum(dim=2), torch.ones(2, 2))
    torch.testing.assert_close(all_tokens, seen[-1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention.flatten(1), all_tokens.mean(dim=1)[:, -9:])
    assert attention.std() > 1e-3, "all patches alike would hide a wrong order"


@pytest.mark.parametrize("name", TINY)
def test_stock_timm_loads_every_family(name: str, tmp_path: Path) -> None:
    """The student could be used by nobody else: registers or the norm before the blocks would be lost."""
    backbone = shaken(name)
    (tmp_path / "config.json").write_text(backbone.export.config)
    save_file(backbone.module.state_dict(), tmp_path / "model.safetensors")
    stock: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for size in (32, 24):
        pixels = torch.randn(2, 3, size, size)
        with torch.no_grad():
            ours = backbone.tokens(backbone.module, pixels).flatten(2).transpose(1, 2)
            theirs = stock.forward_features(pixels)[:, stock.num_prefix_tokens :]
        assert torch.equal(ours, theirs)
    assert torch.equal(stock.state_dict()["pos_embed"], backbone.module.state_dict()["pos_embed"])


@pytest.mark.parametrize("quick", [False, True])
def test_a_clip_is_the_same_model_in_both_libraries(quick: bool, tmp_path: Path) -> None:
    """NeCo on timm's copy of a CLIP would start from another model than on open_clip's."""
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 5, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}
    torch.manual_seed(1)
    model = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text, quick_gelu=quick).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    torch.save(model.state_dict(), tmp_path / "clip.bin")
    found = {}
    for name in (CLIP, CLIP_QUICKGELU):
        out = tmp_path / f"{name.removeprefix('timm:')}.safetensors"
        import_weights(name, tmp_path / "clip.bin", out)
        found[name] = build(name, weights=out)
    pixels = torch.randn(2, 3, 32, 32)
    model.visual.output_tokens = True
    with torch.no_grad():
        expected = model.visual(pixels)[1].transpose(1, 2).unflatten(2, (4, 4))
        same, other = (
            (one.tokens(one.module.eval(), pixels) - expected).abs().max()
            for one in (found[name] for name in ((CLIP_QUICKGELU, CLIP) if quick else (CLIP, CLIP_QUICKGELU)))
        )
    assert same < 1e-5
    assert other > 1e-3, "the two activations would be taken for one"


def test_a_tower_without_class_token_has_no_foreground() -> None:
    """The attention of the first patch would be taken for that of the image."""
    backbone = shaken(SIGLIP)
    pixels = torch.randn(2, 3, 24, 24)
    tokens = backbone.tokens(backbone.module, pixels)
    assert tokens.shape == (2, 32, 3, 3)
    with pytest.raises(InputError, match=r"no class token.*set objective.mask to all"):
        backbone.tokens_and_attention(backbone.module, pixels)
    tokens.sum().backward()
    idle = [n for n, p in backbone.module.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, "other ranks would wait for gradients that never come"


def test_a_tag_that_timm_lacks_is_refused() -> None:
    """A slip of the pen behind the dot would end in a traceback."""
    with pytest.raises(InputError, match="timm cannot build it: Invalid pretrained tag") as caught:
        build("timm:vit_small_patch16_224.dinosaur")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "pools by attention"),  # CoCa
        ({"timm_model_name": DINO.removeprefix("timm:"), "timm_pool": ""}, "no vision transformer"),  # SigLIP, timm's
    ],
)
def test_towers_of_open_clip_without_patch_tokens_are_refused(
    tmp_path: Path, vision: dict[str, Any], message: str
) -> None:
    """A run would end in a traceback after its data was opened."""
    config = json.loads(Path(TINY_CLIP).read_text())
    config["vision_cfg"] |= vision
    path = tmp_path / f"odd_{message.replace(' ', '_')}.json"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        build(str(path))


def test_another_kind_of_attention_has_no_foreground() -> None:
    """It would end in a traceback, or in a mask that is not the model's."""
    with torch.device("meta"):
        backbone = build("timm:vit_small_patch16_18x2_224", size=224)
        with pytest.raises(InputError, match="another kind of attention"):
            backbone.attention_inputs(backbone.module)


@pytest.mark.parametrize(
    ("content", "message"),
    [("other width", "of another model: Error"), ("cut", "damaged, or of another model"), ("ring", "damaged, or of")],
)
def test_weights_of_other_shapes_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    """ViT-S in place of ViT-B has the same names: it would end in fifty lines of shapes."""
    path = tmp_path / "given.safetensors"
    weights = build(DINO).module.state_dict()
    if content == "other width":
        weights["norm.weight"] = torch.ones(48)
    elif content == "ring":
        weights["pos_embed"] = torch.ones(1, 20, 32)  # neither this grid nor any square
    save_file(weights, path)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=message) as caught:
        build(DINO, weights=path)
    assert "\n" not in str(caught.value)


def write_export(backbone: Backbone, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    config = json.loads(backbone.export.config) | changes
    (folder / "config.json").write_text(json.dumps(config))
    save_file(backbone.module.state_dict(), folder / "model.safetensors")
    return folder


def test_an_export_keeps_its_pixels(tmp_path: Path) -> None:
    """A second run on a model would train it on pixels of another scale than the first."""
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    folder = write_export(build(DINO), tmp_path / "export", pretrained_cfg=pixels)
    backbone = build(DINO, weights=folder)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    again = json.loads(backbone.export.config)["pretrained_cfg"]
    assert {key: again[key] for key in pixels} == pixels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "tiny_clip_quickgelu"}, "of 'tiny_clip_quickgelu', and the recipe's model is timm:tiny_clip"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "no config of timm"),
        ({"pretrained_cfg": {"mean": ["white", 0, 0]}}, "no config of timm"),
        ({"pretrained_cfg": None}, "no config of timm"),
    ],
)
def test_an_export_of_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """CLIP's towers with and without QuickGELU have the same shapes: the wrong one would load without a word."""
    folder = write_export(build(CLIP), tmp_path / "export", **changes)
    with pytest.raises(InputError, match=message) as caught:
        build(CLIP, weights=folder)
    assert "\n" not in str(caught.value)
