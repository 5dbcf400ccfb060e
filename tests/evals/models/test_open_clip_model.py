"""Models of open_clip: the same features as stock open_clip, and nothing unsafe on the way."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.load import load_model
from pineco.evals.models.model import Model

TEXTS = ["a photo of a cat", "ein Hund, zwei Hunde!", "a photo of a dog"]


def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 60), (32, 32), (90, 33))]


def read(model: Model) -> torch.Tensor:
    return model.encode_texts(model.tokenizer(TEXTS))


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_features_equal_stock_open_clip(prefix: str, export_dir: Path) -> None:
    """Our figures of a model would differ from those that anybody else measures."""
    model = load_model(f"{prefix}{export_dir}")
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{export_dir}")
    tokens = open_clip.get_tokenizer(f"local-dir:{export_dir}")(TEXTS)
    images = torch.stack([transform(photo) for photo in photos()])
    with torch.no_grad():
        expected_images = F.normalize(stock.eval().encode_image(images), dim=-1)
        expected_texts = F.normalize(stock.encode_text(tokens), dim=-1)
    found = torch.stack([model.preprocess(photo) for photo in photos()])
    assert torch.equal(found, images)
    assert torch.equal(model.embed(found), expected_images)
    # without the padding that no text sees, sums are of fewer terms: the last bits of float32 differ
    assert torch.allclose(read(model), expected_texts, rtol=0, atol=1e-6)


def test_identity_is_the_hash_of_the_weights(export_dir: Path) -> None:
    """Two reports could not be told to be about the same weights."""
    weights = (export_dir / "open_clip_model.safetensors").read_bytes()
    model = load_model(str(export_dir))
    assert model.identity == f"sha256:{hashlib.sha256(weights).hexdigest()}"
    assert model.name == str(export_dir)


def test_bf16_gives_float32_of_unit_length(export_dir: Path) -> None:
    """Features rounded to bf16 have lengths off by up to 0.4 %, which reorders near neighbours."""
    full, half = load_model(str(export_dir)), load_model(str(export_dir), precision="bf16")
    images = torch.stack([full.preprocess(photo) for photo in photos()])
    exact, rounded = full.embed(images), half.embed(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
    assert (exact * rounded).sum(dim=1).min() > 0.99


@pytest.fixture
def _tiny_is_known(export_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((export_dir / "open_clip_config.json").read_text())
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config["model_cfg"])


@pytest.mark.usefixtures("_tiny_is_known")
def test_random_weights_say_so_and_are_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """A chance-level baseline would pass for a trained model, differ from run to run, or reseed training."""
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = load_model("tiny")
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    second = load_model("tiny")
    assert torch.equal(read(first), read(second))
    assert first.name == "tiny (random weights)"
    assert first.identity == "open_clip:tiny:random-seed-0"
    assert "RANDOM" in caplog.text


@pytest.mark.usefixtures("_tiny_is_known")
def test_a_local_weights_file_can_be_named(export_dir: Path) -> None:
    """Weights could be measured only after wrapping them in a directory."""
    path = export_dir / "open_clip_model.safetensors"
    model = load_model(f"tiny:{path}")
    assert model.identity == load_model(str(export_dir)).identity
    assert torch.equal(read(model), read(load_model(str(export_dir))))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("bomb-went-off"),)


@pytest.mark.usefixtures("_tiny_is_known")
def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring somebody's checkpoint would run whatever they put into it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))
    with pytest.raises(InputError, match="cannot load it"):
        load_model(f"tiny:{tmp_path / 'evil.pt'}")
    assert not (tmp_path / "bomb-went-off").exists()


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_an_incomplete_export_is_named(missing: str, export_dir: Path, tmp_path: Path) -> None:
    """open_clip would take other weights that lie in the directory, or random ones."""
    folder = tmp_path / "export"
    shutil.copytree(export_dir, folder)
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"holds no {missing}"):
        load_model(str(folder))


@pytest.mark.parametrize("named", ["run", "run/checkpoints", "run/checkpoints/step_00000020"])
def test_a_run_directory_names_the_exports_below_it(named: str, tmp_path: Path) -> None:
    """Who has trained a model would not know where it lies."""
    export = "run/checkpoints/step_00000020/export"
    for step in ("step_00000010", "step_00000020"):
        (tmp_path / "run" / "checkpoints" / step / "export").mkdir(parents=True)
    with pytest.raises(InputError, match=f"name an export below it, such as {tmp_path / export}$"):
        load_model(str(tmp_path / named))


@pytest.mark.parametrize("damage", ["config", "width", "weights"])
def test_a_damaged_export_is_one_line(damage: str, export_dir: Path, tmp_path: Path) -> None:
    """The user would get pages of traceback instead of the file at fault."""
    folder = tmp_path / "export"
    shutil.copytree(export_dir, folder)
    if damage == "config":
        (folder / "open_clip_config.json").write_text("{")
    elif damage == "width":
        config = (folder / "open_clip_config.json").read_text()
        (folder / "open_clip_config.json").write_text(config.replace('"embed_dim": 64', '"embed_dim": 32'))
    else:
        (folder / "open_clip_model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="export: open_clip cannot load it") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B-23", "nearest model is ViT-B-32"),
        ("ViT-B-32:openia", "no weights file or tag 'openia'; tags: openai, laion400m_e31"),
        ("local-dir:/nowhere", "holds no open_clip_config.json"),
    ],
)
def test_an_unknown_model_is_named(model: str, message: str) -> None:
    """A typing error would be measured as random weights, or end in a traceback."""
    with pytest.raises(InputError, match=message):
        load_model(model)


@pytest.mark.parametrize(("device", "message"), [("gpu", "no such kind of device"), ("cuda:63", "CUDA devices")])
def test_an_unknown_device_is_named(device: str, message: str) -> None:
    """The run would end in a traceback after minutes of loading."""
    with pytest.raises(InputError, match=message):
        load_model("ViT-B-32", device=device)
