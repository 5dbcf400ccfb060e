"""Perceptual distances: which features they are between, what an aligned export says, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.reader import SampleError
from pineco.data_pipeline.triplets.source import TripletSource, open_triplets
from pineco.evals.models.aligned_export import Features
from pineco.evals.models.perceptual import PerceptualModel, load_perceptual

NAME, WIDTH = "test_vit", 64  # timm's smallest
SIZE = 32


def images(batch: int = 3, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def export_timm(folder: Path, *, registers: int = 0, seed: int = 3, size: int = SIZE) -> Path:
    """A backbone of timm whose positions and registers matter, and its config.json."""
    options: dict[str, Any] = {"reg_tokens": registers, "img_size": size}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = timm.create_model(NAME, num_classes=0, **options)
        for tensor in (model.pos_embed, model.reg_token) if registers else (model.pos_embed,):
            torch.nn.init.normal_(tensor)
        torch.nn.init.normal_(model.norm.weight)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    shown = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "input_size": [3, size, size]}
    content = {"architecture": NAME, "num_classes": 0, "pretrained_cfg": shown, "model_args": options}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def stock(folder: Path, pixels: Tensor) -> tuple[Tensor, Tensor, int]:
    """What stock timm gives, (B, D); what goes into its last norm, where DreamSim reads, (B, P + N, D); and P."""
    config = json.loads((folder / "config.json").read_text())
    model: Any = timm.create_model(NAME, num_classes=0, **config["model_args"]).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    mean, std = (torch.tensor(config["pretrained_cfg"][key])[:, None, None] for key in ("mean", "std"))
    seen: list[Tensor] = []
    model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        embedding = model((pixels - mean) / std)
    return embedding, seen[0], 1 + config["model_args"]["reg_tokens"]


def describe(folder: Path, members: Sequence[tuple[str, str]], /, **changes: object) -> Path:
    """Writes perceptual.json."""
    said = [{"folder": name, "features": features} for name, features in members]
    content = {"schema": 2, "members": said, "margin": 0.05, "head": None, "image_size": SIZE, "mean_centre": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "perceptual.json").write_text(json.dumps(content | changes))
    return folder


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of rows, written out."""
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("features", [None, "cls", "embedding", "cls_patch"])
def test_features_are_those_of_stock_timm(features: Features | None, registers: int, tmp_path: Path) -> None:
    """The wrong token would be compared: registers as patches, or an average where the class token was aligned."""
    export = export_timm(tmp_path / "export", registers=registers)
    model = load_perceptual(str(export), features=features)
    embedding, tokens, prefix = stock(export, images())
    cls, patches = tokens[:, 0], tokens[:, prefix:]
    assert patches.shape[1] == (SIZE // 16) ** 2
    expected = {"cls_patch": torch.cat((cls, patches.mean(1)), 1), "embedding": embedding}.get(features or "cls", cls)
    found = model.encode(images())
    assert torch.allclose(found, expected, atol=1e-5)
    assert (model.width, model.image_size, model.features) == (expected.shape[1], SIZE, (features or "cls",))
    assert torch.allclose(model(images(), images(seed=1)), cosine(expected, model.encode(images(seed=1))), atol=1e-6)


@pytest.mark.parametrize("features", ["cls", "embedding", "cls_patch"])
def test_features_are_those_of_stock_open_clip(features: Features, export_dir: Path) -> None:
    """Our CLIPs would be compared by another vector than the one that was trained."""
    import open_clip

    stock = open_clip.create_model(f"local-dir:{export_dir}").eval()
    shown = stock.visual.preprocess_cfg
    mean, std = (torch.tensor(shown[key])[:, None, None] for key in ("mean", "std"))
    pixels = (images() - mean) / std
    seen: list[Tensor] = []
    stock.visual.ln_post.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        embedding = stock.encode_image(pixels)
    cls, patches = seen[0][:, 0], seen[0][:, 1:]
    expected = {"cls": cls, "embedding": embedding, "cls_patch": torch.cat((cls, patches.mean(1)), 1)}[features]
    found = load_perceptual(str(export_dir), features=features).encode(images())
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(cls, embedding, atol=0.1)


def write_ensemble(folder: Path, export_dir: Path, **changes: object) -> tuple[Path, Tensor]:
    """Two backbones of timm and one of open_clip with different features, and those of `images()`, one by one."""
    export_timm(folder / "0", registers=4, seed=5)
    export_timm(folder / "1", seed=6)
    (folder / "2").symlink_to(export_dir, target_is_directory=True)
    members: list[tuple[str, Features]] = [("0", "cls_patch"), ("1", "cls"), ("2", "embedding")]
    parts = [load_perceptual(str(folder / name), features=kind).encode(images()) for name, kind in members]
    return describe(folder, members, **changes), torch.cat(parts, dim=1)


def test_an_ensemble_is_its_members_in_a_row(tmp_path: Path, export_dir: Path) -> None:
    """Members would be weighed otherwise than in training, or stand in another order than the head's columns."""
    export, expected = write_ensemble(tmp_path / "export", export_dir)
    model = load_perceptual(export)
    assert torch.allclose(model.encode(images()), expected, atol=1e-6)
    assert (model.width, model.features) == (4 * WIDTH, ("cls_patch", "cls", "embedding"))
    describe(export, [("1", "cls"), ("0", "cls_patch"), ("2", "embedding")])
    assert load_perceptual(export).identity != model.identity != ""


def test_the_head_maps_the_features(tmp_path: Path, export_dir: Path) -> None:
    """A head would be left out without a word: distances of the untrained features."""
    export, features = write_ensemble(tmp_path / "export", export_dir, head={"hidden": 8, "width": 4 * WIDTH})
    generator = torch.Generator().manual_seed(1)
    shapes = {"fc1.weight": (8, 256), "fc1.bias": (8,), "fc2.weight": (256, 8), "fc2.bias": (256,)}
    head = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(head, export / "head.safetensors")
    hidden = (features @ head["fc1.weight"].T + head["fc1.bias"]).clamp(min=0)
    expected = features + hidden @ head["fc2.weight"].T + head["fc2.bias"]
    model = load_perceptual(export)
    assert torch.allclose(model.encode(images()), expected, atol=1e-3)  # values of some hundred
    identity = model.identity
    save_file({**head, "fc2.bias": head["fc2.bias"] + 1}, export / "head.safetensors")
    assert load_perceptual(export).identity != identity


def test_one_aligned_model_is_its_weights(tmp_path: Path) -> None:
    """A report could not be traced to the file that stock timm loads."""
    export = describe(export_timm(tmp_path / "export"), [(".", "cls_patch")])
    bare = export_timm(tmp_path / "bare")
    aligned, plain = load_perceptual(export), load_perceptual(bare, features="cls_patch")
    assert aligned.identity == plain.identity
    assert torch.equal(aligned.encode(images()), plain.encode(images()))
    assert aligned.features == ("cls_patch",)


def test_centred_vectors_are_those_of_the_released_code(tmp_path: Path, export_dir: Path) -> None:
    """A released DreamSim would have other distances here: its vectors get unit length, then lose their mean."""
    export_timm(tmp_path / "e" / "0", seed=5)
    (tmp_path / "e" / "1").symlink_to(export_dir, target_is_directory=True)
    export = describe(tmp_path / "e", [("0", "cls"), ("1", "embedding")])
    raw, centred = load_perceptual(export), load_perceptual(export, mean_centre=True)
    a, b = (raw.encode(images(seed=seed)) for seed in (1, 2))
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    expected = cosine(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))
    assert torch.allclose(centred(images(seed=1), images(seed=2)), expected, atol=1e-6)
    assert not torch.allclose(raw(images(seed=1), images(seed=2)), expected, atol=1e-4)
    said = load_perceptual(describe(export, [("0", "cls"), ("1", "embedding")], mean_centre=True))
    assert torch.equal(said.encode(images()), centred.encode(images()))


def test_with_patches_each_token_is_centred_before_the_mean(tmp_path: Path) -> None:
    """Large patches would outweigh the others in the mean, which the released patch models do not allow."""
    export = export_timm(tmp_path / "export", registers=4)
    _, tokens, prefix = stock(export, images())
    tokens = F.normalize(tokens - tokens.mean(-1, keepdim=True), dim=-1)
    expected = torch.cat((tokens[:, 0], tokens[:, prefix:].mean(1)), 1)
    found = load_perceptual(export, features="cls_patch", mean_centre=True).encode(images())
    assert torch.allclose(found, expected, atol=1e-6)


def test_images_are_squashed_as_in_training(tmp_path: Path) -> None:
    """A model would be measured on other pixels than it learned from."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    columns = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split"
    (tmp_path / "data.csv").write_text(f"{columns}\n0,1,0,7,a.png,a.png,a.png,train\n")
    table, reader = open_triplets(str(tmp_path))
    source = TripletSource(table, reader, image_size=SIZE, split="train", min_votes=1, seed=0)
    batch = source.empty(1, pin=False)
    found = reader.read(np.arange(1))[0]
    assert not isinstance(found, SampleError)
    assert source.rows(np.array([0])).tolist() == [[0, 0, 0]]
    source.fill(batch, 0, 0, 0, [found] * 3)
    model = load_perceptual(export_timm(tmp_path / "export"))
    assert torch.equal(model.preprocess(pixels), batch.reference[0])
    assert torch.equal(model.preprocess(Image.fromarray(pixels)), batch.reference[0])
    assert torch.allclose(model.encode(batch.reference), model.encode(batch.reference.float() / 255), atol=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PerceptualModel:
    return load_perceptual(export_timm(tmp_path_factory.mktemp("model") / "export"))


def test_pictures_and_tensors_have_one_distance(model: PerceptualModel) -> None:
    """The one call that people use would take only what it was tested with."""
    noise = [Image.effect_noise((40, 40), sigma).convert("RGB") for sigma in (20, 60, 90)]
    tensors = torch.stack([model.preprocess(one) for one in noise])
    one = model(noise[0], noise[1])
    assert (one.shape, one.dtype) == ((1,), torch.float32)
    assert 0 < one < 2
    assert torch.allclose(one, model(noise[1], noise[0]), atol=1e-6)
    assert model(noise[0], noise[0]).abs() < 1e-6
    several = model(noise[0], noise)
    assert torch.allclose(several, model(tensors[:1], tensors), atol=1e-6)
    assert torch.allclose(several[1], one[0], atol=1e-6)
    assert torch.allclose(several, model(noise[0].convert("L"), tensors.float() / 255), atol=1e-5)


def test_gradients_reach_the_images(model: PerceptualModel) -> None:
    """The distance could not be minimised, which is what many take it for; or the model would gather gradients."""
    pixels = images(2).requires_grad_()
    model(pixels, images(2, seed=1)).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert not model.encode(pixels).requires_grad
    assert all(not p.requires_grad for m in model._members for p in m.model.module.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: images(size=16), r"must be \(B, 3, 32, 32\)"),
        (lambda: images()[0], r"must be \(B, 3, 32, 32\)"),
        (lambda: images()[:0], r"must be \(B, 3, 32, 32\)"),
        (lambda: images() * 255, "floats must be in"),
        (lambda: images() - 0.5, "floats must be in"),
        (lambda: images() * float("nan"), "floats must be in"),
        (lambda: (images() * 255).long(), "must be uint8"),
        (lambda: images(2), "3 images against 2: give as many, or one"),
    ],
)
def test_images_that_are_no_such_images_are_refused(
    make: Callable[[], Tensor], message: str, model: PerceptualModel
) -> None:
    """Pixels that were normalised already would give a plausible distance of nothing."""
    with pytest.raises(InputError, match=message):
        model(images(), make())


def test_another_size_resamples_positions(tmp_path: Path, export_dir: Path) -> None:
    """A backbone could not be measured before alignment at the size of its aligned self."""
    for export in (export_timm(tmp_path / "export"), export_dir):
        small, large = load_perceptual(export), load_perceptual(export, image_size=48)
        assert (small.image_size, large.image_size) == (32, 48)
        grey = [m.preprocess(Image.new("RGB", (9, 5), (200, 30, 90)))[None] for m in (small, large)]
        assert grey[1].shape == (1, 3, 48, 48)
        near = F.cosine_similarity(small.encode(grey[0]), large.encode(grey[1]))
        assert near > 0.8


def test_bf16_is_near_fp32(tmp_path: Path) -> None:
    """The two precisions would be of two models."""
    export = export_timm(tmp_path / "export")
    one, two = (load_perceptual(export, precision=p).encode(images()) for p in ("fp32", "bf16"))
    assert two.dtype == torch.float32
    assert not torch.equal(one, two)
    assert F.cosine_similarity(one, two).min() > 0.99


def test_a_convnet_has_an_embedding() -> None:
    """Only transformers could be asked whether they see as people do."""
    model = load_perceptual("timm:test_convnext", features="embedding")
    assert model.encode(images(size=model.image_size)).shape == (3, model.width)
    with pytest.raises(InputError, match="no class token; use --features embedding"):
        load_perceptual("timm:test_convnext")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "cls"}, r"perceptual\.json says cls_patch; leave the option out"),
        ({"features": "pixels"}, r"leave the option out"),
        ({"image_size": 40}, "not a multiple of the model's patch size 16"),
        ({"device": "tpu9"}, "no such kind of device"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: dict, message: str, tmp_path: Path) -> None:
    """An aligned model would be measured by what it was not aligned for, in silence."""
    export = describe(export_timm(tmp_path / "export"), [(".", "cls_patch")])
    with pytest.raises(InputError, match=message) as caught:
        load_perceptual(export, **options)
    assert "\n" not in str(caught.value)


def test_unknown_features_are_refused(tmp_path: Path) -> None:
    """A typing error would be measured as some other features."""
    with pytest.raises(InputError, match="must be one of cls, embedding, cls_patch"):
        load_perceptual(export_timm(tmp_path / "export"), features="patch")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 1}, "no description of schema 2"),
        ({"members": []}, "it has no members"),
        ({"members": [{"folder": "../other", "features": "cls"}]}, "must be relative and stay inside"),
        ({"members": [{"folder": "/etc", "features": "cls"}]}, "must be relative and stay inside"),
        ({"members": [{"folder": ".", "features": "pixels"}]}, "features 'pixels' are none of"),
        ({"members": [{"folder": "."}]}, "KeyError: 'features'"),
        ({"members": [{"folder": "9", "features": "cls"}]}, "neither a directory, timm:NAME"),
        ({"image_size": "big"}, "'big' is no whole number"),
        ({"mean_centre": "no"}, "mean_centre is no truth value"),
        ({"head": {"hidden": 8, "width": 64}}, r"head\.safetensors: no head"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    """A damaged export would be measured as another model, or could make us read files anywhere."""
    export = describe(export_timm(tmp_path / "export"), [(".", "cls")], **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_perceptual(export)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "said", "message"),
    [
        (64, {"hidden": 4, "width": 64}, "of 64 features and 8 hidden; perceptual.json says 64 and 4"),
        (32, {"hidden": 8, "width": 32}, "for 32 features; the members give 64"),
    ],
)
def test_a_head_of_another_model_is_refused(width: int, said: dict, message: str, tmp_path: Path) -> None:
    """It would end in a traceback at the first image."""
    export = describe(export_timm(tmp_path / "export"), [(".", "cls")], head=said)
    shapes = {"fc1.weight": (8, width), "fc1.bias": (8,), "fc2.weight": (width, 8), "fc2.bias": (width,)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, export / "head.safetensors")
    with pytest.raises(InputError, match=message):
        load_perceptual(export)


def test_a_damaged_description_is_one_line(tmp_path: Path) -> None:
    """A file that was cut while it was copied would be a traceback."""
    export = describe(export_timm(tmp_path / "export"), [(".", "cls")])
    (export / "perceptual.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        load_perceptual(export)
