"""The command line that compares how models see one set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pineco.evals.models.load import load_model
from pineco.evals.representation.similarity import linear_cka, rsa
from pineco.launch.evaluate.probe import short_names
from tests.support.coloured_sets import WriteFolder
from tests.support.coloured_sets import export_dir as export_dir
from tests.support.coloured_sets import write_folder as write_folder
from tests.support.commands import command
from tests.support.segmentation_sets import small_set

main = command("eval probe")

TIMM = "timm:test_vit"
CLASSES = 3


def noise(seed: int) -> bytes:
    """A PNG of 16 x 16 coloured pixels."""
    from io import BytesIO

    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((16, 16)).save(buffer, "PNG")
    return buffer.getvalue()


def samples(count: int = 12) -> list[dict[str, bytes]]:
    found = []
    for number in range(count):
        label = number % CLASSES
        counts = [1 + 2 * number % 5 if c == (label + 1) % CLASSES else 40 * (c == label) for c in range(CLASSES)]
        about = json.dumps({"cifar10h_counts": counts}).encode()
        found.append({"png": noise(number), "cls": str(label).encode(), "json": about})
    return found


@pytest.fixture
def data(write_folder: WriteFolder) -> Path:
    return write_folder("set", samples())


@pytest.fixture
def moved(export_dir: Path, tmp_path: Path) -> Path:
    """The tiny CLIP after some training."""
    from safetensors.torch import load_file

    weights = load_file(export_dir / "open_clip_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in weights.items():
        if name.startswith("visual.transformer") and tensor.ndim == 2:
            tensor += 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator)
    folder = tmp_path / "run" / "checkpoints" / "step_2" / "export"
    folder.mkdir(parents=True)
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_bytes((export_dir / "open_clip_config.json").read_bytes())
    return folder


@pytest.fixture
def timm_dir(tmp_path: Path) -> Path:
    """What timm itself saves of a small vision transformer, 32 pixels wide where the CLIP is 64."""
    import timm

    folder = tmp_path / "aligned" / "export"
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = timm.create_model("test_vit", num_classes=0)
    save_file(module.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "num_classes": 0}))
    return folder


def arguments(data: object, out: Path, models: list[object], *more: str) -> list[str]:
    return ["--models", *map(str, models), "--data", str(data), "--out", str(out), "--draws", "20", *more]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_compares_models_of_every_kind(
    data: Path, export_dir: Path, moved: Path, timm_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command would not do what its help says, or a figure could not be traced to what it is of."""
    out, models = tmp_path / "probe.json", [export_dir, moved, timm_dir, TIMM]
    assert main(arguments(data, out, models, "--layers", "cls", "--cifar10h", "shards", "--batch-size", "5")) == 0
    report = read(out)
    assert (report["schema"], report["schema_version"], report["images"]) == ("pineco.probe", 1, 12)
    assert [one["width"] for one in report["models"]] == [64, 64, 64, 64]
    assert len({one["identity"] for one in report["models"]}) == 4
    assert all(report[name] for name in ("data", "images_digest", "bootstrap", "precision", "hardware", "versions"))
    images = [Image.open(data.parent / f"{n}.png").convert("RGB") for n in range(12) if save(data.parent, n)]
    features = []
    for model in (export_dir, moved):
        encoder = load_model(str(model))
        features.append(encoder.embed(torch.stack([encoder.preprocess(one) for one in images])).numpy())
    assert report["cka"]["values"][0][1] == pytest.approx(linear_cka(*features), abs=1e-4)
    assert report["cka_biased"]["values"][1][0] == pytest.approx(linear_cka(*features, debiased=False), abs=1e-4)
    assert report["rsa"]["values"][0][1] == pytest.approx(rsa(*features), abs=1e-2)
    assert report["rsa"]["images"] == 12
    curves = report["layers"]["curves"]
    assert report["layers"]["tokens"] == "cls"
    assert [len(curve["cka"]) for curve in curves.values()] == [2, 6, 6]
    assert list(curves.values())[1]["of_first"] == [0, 0, 0, 1, 1, 1]
    ways = [(row["model"], row["classes_by"]) for row in report["cifar10h"]["models"]]
    labels = [one["label"] for one in report["models"]]
    assert ways == [(labels[0], "means"), (labels[0], "text"), (labels[1], "means"), (labels[1], "text")] + [
        (label, "means") for label in labels[2:]
    ]
    text = out.with_suffix(".md").read_text()
    for heading in ("Linear CKA, debiased", "Linear CKA, biased", "RSA", "Layers", "Agreement with people"):
        assert f"## {heading}" in text
    assert "](probe.png)" in text
    assert "| half of the people | people |" in text
    assert Image.open(out.with_suffix(".png")).size[0] > 800
    assert str(out) in capsys.readouterr().out


def save(folder: Path, number: int) -> bool:
    (folder / f"{number}.png").write_bytes(noise(number))
    return True


def test_a_model_is_like_itself(data: Path, export_dir: Path, tmp_path: Path) -> None:
    """Batches, layers or images of two models would be paired in another order."""
    same, out = tmp_path / "same", tmp_path / "probe.json"
    same.symlink_to(export_dir)
    for kind in ("cls", "patch"):
        assert main(arguments(data, out, [export_dir, same], "--layers", kind, "--batch-size", "5")) == 0
        report = read(out)
        (curve,) = report["layers"]["curves"].values()
        for figure in (report["cka"]["values"][0][1], report["rsa"]["values"][0][1], *curve["cka"], *curve["low"]):
            assert figure == pytest.approx(1, abs=1e-9)


def test_a_report_can_be_had_again(data: Path, export_dir: Path, moved: Path, tmp_path: Path) -> None:
    """Two runs of one command would differ."""
    reports = []
    for name in ("a.json", "b.json"):
        command = arguments(data, tmp_path / name, [export_dir, moved], "--cifar10h", "shards", "--rsa-images", "7")
        assert main(command) == 0
        reports.append({k: v for k, v in read(tmp_path / name).items() if k not in ("seconds", "commit")})
    assert reports[0] == reports[1]
    assert reports[0]["rsa"]["images"] == 7


def test_a_set_with_masks_is_read(export_dir: Path, moved: Path, tmp_path: Path) -> None:
    """What dense training changed could not be seen on the images that it is measured on."""
    masks, out = small_set(tmp_path / "masks"), tmp_path / "probe.json"
    assert main(arguments(masks, out, [export_dir, moved])) == 0
    report = read(out)
    assert report["images"] == 5
    assert report["layers"] is report["cifar10h"] is None
    assert -1 <= report["cka"]["values"][0][1] <= 1


def test_names_are_what_the_models_do_not_share() -> None:
    """Checkpoints of a run would all be called export, or have paths that fit no table."""
    run = "runs/x/checkpoints/step_{}/export"
    assert short_names([run.format(1), run.format(2)]) == ["step_1", "step_2"]
    assert short_names([run.format(1), "runs/y/checkpoints/step_1/export/"]) == ["x", "y"]
    assert short_names(["runs/x/init/step_1/export", "runs/x/step_1/export"]) == [
        "runs/x/init/step_1/export",
        "runs/x/step_1/export",
    ]
    assert short_names(["ViT-B-32:openai", TIMM]) == ["ViT-B-32:openai", TIMM]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--models", TIMM], "needs two models or more"),
        (["--models", TIMM, TIMM], "each once"),
        (["--models", TIMM, "timm:tset_vit"], "nearest model is timm:test_vit"),
        (["--data", "nowhere"], "nowhere"),
        (["--out", "{tmp}/r.txt"], "must be a file that ends in .json"),
        (["--out", "{tmp}/nowhere/r.json"], "in a folder that exists"),
        (["--cifar10h", "{tmp}/counts.csv"], "must be a .tsv, the published .npy, or the word shards"),
        (["--cifar10h", "{tmp}/counts.npy"], "counts.npy: no array"),
        (["--device", "tpu9"], "no such kind of device"),
        (["--models", TIMM, "timm:test_resnet", "--layers", "cls"], "no plain vision transformer"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    change: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts could not tell a mistake from a crash, and people would have to read a traceback."""
    before = sorted(tmp_path.iterdir())
    command = arguments(data, tmp_path / "r.json", [TIMM, "timm:test_vit2"])
    assert main([*command, *(c.format(tmp=tmp_path) for c in change)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pineco: ")
    assert message in error
    assert sorted(tmp_path.iterdir()) == before


def test_bad_images_are_counted_and_named(
    write_folder: WriteFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure would be of fewer images than it says, and an old report be lost for it."""
    bad = samples()
    bad[4]["png"], bad[7]["png"] = b"nothing", bad[7]["png"][:60]
    del bad[9]["cls"]
    out = tmp_path / "r.json"
    out.write_text("an older report")
    assert main(arguments(write_folder("bad", bad), out, [TIMM, "timm:test_vit2"])) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "3 of 12 samples cannot be used" in error
    assert "s0000004" in error
    assert out.read_text() == "an older report"


def test_people_of_a_set_with_masks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes of pixels would be taken for labels of images."""
    masks = small_set(tmp_path / "masks")
    command = arguments(masks, tmp_path / "r.json", [TIMM, "timm:test_vit2"], "--cifar10h", "shards")
    assert main(command) == 2
    assert "has masks, not classes that people named" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rsa-images", "--draws", "--batch-size", "--workers"])
def test_numbers_are_positive(option: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Zero draws would give an interval of nothing."""
    for value in ("0", "-1", "many"):
        with pytest.raises(SystemExit) as caught:
            main([*arguments(data, tmp_path / "r.json", [TIMM]), f"{option}={value}"])
        assert caught.value.code == 2
    assert option in capsys.readouterr().err


def _modules(command: str) -> str:
    program = (
        f"import sys, pineco.launch.cli as c\ntry: c.main(['eval', 'probe', *{command}])\nexcept SystemExit: pass\n"
    )
    program += "print([m for m in ('torch', 'timm', 'open_clip') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_help_and_mistakes_in_paths_import_nothing_slow(tmp_path: Path) -> None:
    """`--help`, and every typing error, would take ten seconds."""
    assert _modules("['--help']") == "[]"
    assert _modules(repr(arguments("nowhere", tmp_path / "r.json", ["a", "b"]))) == "[]"
