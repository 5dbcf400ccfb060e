"""Published weights, in small: each file is shaped like one that people download, and read by its own layout."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.models.backbones import build_backbone
from pineco.pretrain.models.import_weights import import_weights
from tests.support.commands import command
from tests.support.tiny_vits import CLIP, DINO, DINOV2, DINOV2_GIANT, DINOV2_REG

main = command("weights import")

Weights = dict[str, Tensor]


def tower(name: str, **options: Any) -> Weights:
    """Of timm's architecture, all values drawn anew: zeros would hide what is lost."""
    generator = torch.Generator().manual_seed(7)
    module = timm.create_model(name.removeprefix("timm:"), num_classes=0, **options)
    return {key: torch.randn(value.shape, generator=generator) for key, value in module.state_dict().items()}


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def imported(tmp_path: Path, model: str, held: Any, name: str = "published.pth") -> Weights:
    """What becomes of an object that torch.save, or safetensors, wrote."""
    source, out = tmp_path / name, tmp_path / "out.safetensors"
    save_file(held, source) if source.suffix == ".safetensors" else torch.save(held, source)
    import_weights(model, source, out)
    return load_file(out)


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def as_dinov2(weights: Weights) -> Weights:
    """The names and layout of DINOv2's own files: the class token's place stands before those of the patches."""
    given = dict(weights)
    cls, registers, places = given.pop("cls_token"), given.pop("reg_token"), given.pop("pos_embed")
    first = torch.full_like(cls, 0.5)
    return given | {
        "cls_token": cls - first,
        "pos_embed": torch.cat((first, places), dim=1),
        "register_tokens": registers,
        "mask_token": torch.ones(1, cls.shape[2]),
    }


def test_dino(tmp_path: Path) -> None:
    """DINO's plain file could not be started from."""
    weights = tower(DINO)
    assert_same(imported(tmp_path, DINO, OrderedDict(weights)), weights)


def test_dinos_training_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options and numbers of numpy beside the tensors would make it unreadable; or the student be taken."""
    weights, heads = tower(DINO), {"head.mlp.0.weight": torch.ones(3, 3), "head.last_layer.weight_g": torch.ones(3, 1)}
    held = {
        "student": prefixed("module.backbone.", {name: -tensor for name, tensor in weights.items()}),
        "teacher": prefixed("backbone.", weights) | heads,
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-3), "weight_decay": np.float32(0.4)}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
    }
    torch.save(held, tmp_path / "full.pth")
    assert main([DINO, str(tmp_path / "full.pth"), str(tmp_path / "out.safetensors")]) == 0
    assert_same(load_file(tmp_path / "out.safetensors"), weights)
    out = capsys.readouterr().out
    assert "full.pth (teacher: backbone.)" in out
    assert "left out 2 tensors: head (2)" in out


def test_scalars_of_old_numpy_are_read(tmp_path: Path) -> None:
    """Files from before numpy 2 name the same function by another path."""
    torch.save({"teacher": tower(DINO), "lr": np.float64(1)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            data = new.read(name)
            assert not name.endswith("data.pkl") or b"numpy._core.multiarray" in data
            old.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    import_weights(DINO, tmp_path / "old.pth", tmp_path / "out.safetensors")
    assert_same(load_file(tmp_path / "out.safetensors"), tower(DINO))


def test_dinov2_with_registers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The class token would lack its place, registers be taken for patches."""
    weights = tower(DINOV2_REG)
    torch.save(as_dinov2(weights), tmp_path / "reg4.pth")
    assert main([DINOV2_REG, str(tmp_path / "reg4.pth"), str(tmp_path / "out.safetensors")]) == 0
    found = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(found.pop("cls_token"), weights.pop("cls_token"), atol=1e-6)  # a sum of two
    assert_same(found, weights)
    assert "left out 1 tensors: mask_token (1)" in capsys.readouterr().out


def test_registers_without_a_mask_token(tmp_path: Path) -> None:
    """What was trained on from DINOv2 may have dropped it, and timm would no longer know the file."""
    held = as_dinov2(tower(DINOV2_REG))
    del held["mask_token"]
    assert torch.equal(imported(tmp_path, DINOV2_REG, held)["reg_token"], held["register_tokens"])


def test_dinov2_without_registers(tmp_path: Path) -> None:
    """Its class token has a place among the position embeddings, which must stay."""
    weights = tower(DINOV2)
    assert_same(imported(tmp_path, DINOV2, weights | {"mask_token": torch.ones(1, 32)}), weights)


def test_the_gated_mlp_of_dinov2s_largest(tmp_path: Path) -> None:
    """ViT-g/14 names its layers otherwise."""
    weights = tower(DINOV2_GIANT)
    renamed = {n.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for n, t in weights.items()}
    assert renamed.keys() != weights.keys()
    assert_same(imported(tmp_path, DINOV2_GIANT, renamed | {"mask_token": torch.ones(1, 32)}), weights)


@pytest.mark.parametrize("root", ["teacher", "model"])
def test_dinov2s_training_checkpoints(tmp_path: Path, root: str) -> None:
    """Blocks in chunks, beside two heads: what DINOv2 writes while it trains. A block would be lost in each chunk."""
    weights = tower(DINOV2)
    chunked = {n.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): t for n, t in weights.items()}
    heads = {"dino_head.mlp.0.weight": torch.ones(2, 2), "ibot_head.mlp.0.weight": torch.ones(2, 2)}
    teacher = prefixed("backbone.", chunked | {"mask_token": torch.ones(1, 32)}) | heads
    student = prefixed("student.", {name: -tensor for name, tensor in teacher.items()})
    held = teacher if root == "teacher" else prefixed("teacher.", teacher) | student
    assert_same(imported(tmp_path, DINOV2, {root: held, "iteration": 5}), weights)


def clip_state() -> tuple[Any, Weights]:
    """A small CLIP of open_clip, whose image tower is that of the timm model CLIP."""
    torch.manual_seed(3)
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 5, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval(), {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "epoch_32.pt"])
def test_the_image_tower_of_a_clip(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Patch features would not be those of the CLIP that was published."""
    model, state = clip_state()
    held: Any = {"epoch": 32, "state_dict": prefixed("module.", state)} if file == "epoch_32.pt" else state
    source, out = tmp_path / file, tmp_path / "out.safetensors"
    save_file(held, source) if source.suffix == ".safetensors" else torch.save(held, source)
    assert main([CLIP, str(source), str(out)]) == 0
    backbone = build_backbone(CLIP, 0, weights=str(out), image_size=32, drop_path=0.0)
    pixels = torch.randn(2, 3, 32, 32)
    model.visual.output_tokens = True
    with torch.no_grad():
        _, expected = model.visual(pixels)
        found = backbone.tokens(backbone.module.eval(), pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr().out
    for part in ("transformer (", "token_embedding (1)", "logit_scale (1)", "proj (1)"):
        assert part in said


def test_clips_half_precision_is_kept_exactly(tmp_path: Path) -> None:
    """OpenAI published halves: they would be resampled in half precision, or rounded."""
    _, state = clip_state()
    halves = {name: tensor.half() for name, tensor in state.items()}
    found = imported(tmp_path, CLIP, halves)
    assert torch.equal(found["blocks.1.attn.qkv.weight"], halves["visual.transformer.resblocks.1.attn.in_proj_weight"])
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_open_clip_with_a_tower_of_timm(tmp_path: Path) -> None:
    """Newer CLIPs of open_clip hold timm's tower by timm's names."""
    weights = tower(DINO)
    held = prefixed("visual.trunk.", weights) | {"visual.head.proj.weight": torch.ones(2, 2), "logit_scale": Tensor()}
    assert_same(imported(tmp_path, DINO, held), weights)


def test_synclr(tmp_path: Path) -> None:
    """SynCLR keeps timm's names below a container and two prefixes."""
    weights = tower(DINO)
    assert_same(imported(tmp_path, DINO, {"model": prefixed("module.visual.", weights), "epoch": 500}), weights)


def test_timms_own_file_loses_its_classifier(tmp_path: Path) -> None:
    """A classifier would be unknown to a backbone."""
    weights = tower(DINO)
    heads = {"head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}
    assert_same(imported(tmp_path, DINO, weights | heads, "model.safetensors"), weights)


def test_position_embeddings_keep_the_size_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would be resampled twice, the first time without a word."""
    weights = tower(DINO, img_size=64)
    torch.save(weights, tmp_path / "large.pth")
    assert main([DINO, str(tmp_path / "large.pth"), str(tmp_path / "out.safetensors")]) == 0
    assert_same(load_file(tmp_path / "out.safetensors"), weights)
    assert "position embeddings stay those of 64 px" in capsys.readouterr().out
    build_backbone(DINO, 0, weights=str(tmp_path / "out.safetensors"), image_size=32, drop_path=0.0)


def test_a_folder_says_how_pixels_are_normalised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SynCLR's layers are those of models with other pixels: it would see its images too bright."""
    weights = tower(DINO, img_size=24)
    torch.save({"model": prefixed("module.visual.", weights)}, tmp_path / "synclr.pth")
    assert main([DINO, str(tmp_path / "synclr.pth"), str(tmp_path / "synclr"), "--pixels", "clip"]) == 0
    backbone = build_backbone(DINO, 0, weights=str(tmp_path / "synclr"), image_size=24, drop_path=0.0)
    stock: Any = timm.create_model(f"local-dir:{tmp_path / 'synclr'}", pretrained=True)
    assert_same(dict(backbone.module.state_dict()), weights)
    assert_same(dict(stock.state_dict()), weights)
    clip = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    assert (backbone.mean, backbone.std) == clip
    assert (tuple(stock.pretrained_cfg["mean"]), tuple(stock.pretrained_cfg["std"])) == clip
    assert json.loads(backbone.export.config)["pretrained_cfg"]["mean"] == list(clip[0])
    assert str(tmp_path / "synclr") in capsys.readouterr().out


@pytest.mark.parametrize("pixels", ["imagenet", "inception", None])
def test_every_choice_of_pixels(tmp_path: Path, pixels: str | None) -> None:
    """A choice of the command line would be none of the importer's, or the wrong one."""
    torch.save(tower(DINO), tmp_path / "dino.pth")
    options = [] if pixels is None else ["--pixels", pixels]
    assert main([DINO, str(tmp_path / "dino.pth"), str(tmp_path / "dino"), *options]) == 0
    shown = json.loads((tmp_path / "dino" / "config.json").read_text())["pretrained_cfg"]
    half, imagenet = ([0.5] * 3, [0.5] * 3), (list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
    assert (shown["mean"], shown["std"]) == (half if pixels == "inception" else imagenet)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def write_tar(path: Path, data: bytes) -> None:
    """The layout of torch before 0.1.10."""
    with tarfile.open(path, "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("layout", ["zip", "before 1.6", "plain", "tar", "safetensors"])
def test_code_in_a_file_is_not_run(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever publishes a file could run a program here."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof, source = tmp_path / "it ran", tmp_path / "evil.pth"
    held = {"teacher": tower(DINO), "args": Evil(proof)}
    if layout in ("zip", "before 1.6"):
        torch.save(held, source, _use_new_zipfile_serialization=layout == "zip")
    elif layout == "tar":
        write_tar(source, pickle.dumps(Evil(proof)))
    else:
        source = source.with_suffix(".safetensors" if layout == "safetensors" else ".pth")
        source.write_bytes(pickle.dumps(Evil(proof)))
    with pytest.raises(InputError) as caught:
        import_weights(DINO, source, tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch's advice to trust the file would be passed on"
    assert not proof.exists()
    assert {path.name for path in tmp_path.iterdir()} == {source.name}
    if layout == "zip":
        assert "holds more than tensors (posix.mkdir)" in str(caught.value)


def test_a_program_for_torch_is_not_run(tmp_path: Path) -> None:
    """OpenAI's own archives are programs with weights."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(InputError, match="TorchScript archive, which is a program; take"):
        import_weights(CLIP, tmp_path / "ViT-B-32.pt", tmp_path / "out.safetensors")


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (DINO, without("norm.weight"), "lacks norm.weight"),
        (DINO, lambda w: w | {"adapter.weight": torch.ones(2)}, "has unknown adapter.weight"),
        (DINO, lambda w: w | {"a\n\x1b[31mb": torch.ones(2)}, r"has unknown a \x1b[31mb"),
        (DINO, lambda w: w | {"norm.bias": torch.ones(31)}, "has other shapes of norm.bias"),
        (DINO, lambda w: w | {"norm.bias": torch.full((32,), torch.nan)}, "norm.bias is not finite"),
        (DINO, lambda w: w | {"norm.bias": torch.ones(32, dtype=torch.int8)}, "weights must be plain floats"),
        (DINO, lambda w: w | {"norm.bias": torch.ones(32).to_sparse()}, "weights must be plain floats"),
        (DINO, lambda w: w | {"pos_embed": torch.ones(1, 19, 32)}, "19 position embeddings are no square"),
        (DINO, lambda w: w | {"pos_embed": torch.ones(5)}, "of another model: timm cannot convert it"),
        (DINO, lambda w: w | {"patch_embed.proj.weight": torch.ones(32, 3, 7, 7)}, "7 x 7 pixels, the model's 8 x 8"),
        (DINO, lambda w: w | {"patch_embed.proj.weight": torch.ones(5, 7)}, "of another model"),
        (DINOV2_REG, without("cls_token"), "lacks cls_token"),
        (DINOV2_REG, lambda w: without("pos_embed")(as_dinov2(w)), "of another model: timm cannot convert it"),
        (
            DINOV2_REG,
            lambda w: as_dinov2(w) | {"register_tokens": torch.ones(1, 2, 32)},
            "registers are [2], the model's 4",
        ),
        (DINO, lambda w: w | {"register_tokens": torch.ones(1, 4, 32)}, "registers are [4], the model's 0"),
        (DINO, lambda w: {"weights": w}, "holds no tensors by name"),
        (DINO, lambda w: list(w.values()), "holds no tensors by name"),
        (DINO, lambda w: {}, "holds no tensors by name"),
        ("timm:resnet18", lambda w: w, "no vision transformer"),
        ("timm:vit_tiny_patchwork", lambda w: w, "that timm knows"),
        ("timm:vit_small_patch16_224.dinosaur", lambda w: w, "timm cannot build it: Invalid pretrained tag"),
        ("vit_small_patch16_224", lambda w: w, "that timm knows"),
    ],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, model: str, change: Callable[[Weights], Any], message: str
) -> None:
    """A part of the backbone would be random, or what was published be dropped, and nobody would know."""
    source = tmp_path / "published.pth"
    torch.save(change(tower(model if model in (DINO, DINOV2_REG) else DINO)), source)
    with pytest.raises(InputError) as caught:
        import_weights(model, source, tmp_path / "out.safetensors")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {source.name}


def test_a_file_that_contains_itself_is_refused(tmp_path: Path) -> None:
    """It would be unwrapped for ever."""
    held: dict[str, Any] = {}
    held["model"] = held
    torch.save(held, tmp_path / "ring.pth")
    with pytest.raises(InputError, match="holds no tensors by name"):
        import_weights(DINO, tmp_path / "ring.pth", tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "page.pth", "empty.pth", "missing.pth", "folder"])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A cut download would end in a traceback."""
    source = tmp_path / name
    weights = tower(DINO)
    if name.startswith("cut"):
        save_file(weights, source) if source.suffix == ".safetensors" else torch.save(weights, source)
        source.write_bytes(source.read_bytes()[:2000])
    elif name == "page.pth":
        source.write_text("<html>404</html>")
    elif name == "empty.pth":
        source.touch()
    elif name == "folder":
        source.mkdir()
    assert main([DINO, str(source), str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pineco: {source}: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """Weights that a run started from would change behind its back."""
    torch.save(tower(DINO), tmp_path / "dino.pth")
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        import_weights(DINO, tmp_path / "dino.pth", out)
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match=r"must be \*\.safetensors or a folder"):
        import_weights(DINO, tmp_path / "dino.pth", tmp_path / "out.pth")
    with pytest.raises(InputError, match="with --pixels, OUT must be a folder"):
        import_weights(DINO, tmp_path / "dino.pth", tmp_path / "new.safetensors", "clip")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file would look like weights."""
    torch.save(tower(DINO), tmp_path / "dino.pth")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for name in ("out.safetensors", "folder"):
        with pytest.raises(InputError, match="not written: No space left"):
            import_weights(DINO, tmp_path / "dino.pth", tmp_path / "new" / name)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not written"):
        import_weights(DINO, tmp_path / "dino.pth", tmp_path / "file" / "out.safetensors")


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    """Its hash, which names the model in reports, would say nothing."""
    torch.save(as_dinov2(tower(DINOV2_REG)), tmp_path / "reg4.pth")
    for name in "ab":
        import_weights(DINOV2_REG, tmp_path / "reg4.pth", tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_help_needs_no_torch() -> None:
    """Help would take seconds."""
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    code += "import pineco.launch.import_weights as command; command.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "timm:NAME" in done.stdout
    assert done.stdout.endswith("False\n")
