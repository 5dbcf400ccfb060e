"""Benchmarks of plain colours, and a model that knows them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


TINY_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


Members = dict[str, bytes]


WriteFolder = Callable[..., Path]


class ColourEncoder:
    """Sees the mean colour of an image, and the colour words of a text: right on COLOURS by construction."""

    name, identity, device, precision = "colours", "none", torch.device("cpu"), "fp32"

    def __init__(self) -> None:
        self.image_batches: list[int] = []
        self.texts: list[str] = []

    def preprocess(self, image: Image.Image) -> Tensor:
        pixel = image.resize((1, 1)).getpixel((0, 0))
        assert isinstance(pixel, tuple)
        pixels = torch.tensor(pixel, dtype=torch.float32)
        return pixels[:, None, None] / 255

    def embed(self, images: Tensor) -> Tensor:
        self.image_batches.append(len(images))
        return F.normalize(images.flatten(1), dim=1)

    def tokenizer(self, texts: list[str]) -> list[str]:
        return texts

    def encode_texts(self, texts: list[str]) -> Tensor:
        self.texts += texts
        rows = [[float(word in text) + 0.01 for word in COLOURS] for text in texts]
        return F.normalize(torch.tensor(rows), dim=1)


def write_tar(path: Path, samples: Sequence[Members], first: int) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, sample in enumerate(samples, start=first):
            for extension, content in sample.items():
                info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def picture() -> Callable[..., bytes]:
    def make(colour: str = "red", size: tuple[int, int] = (24, 16), fmt: str = "JPEG") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, COLOURS[colour]).save(buffer, fmt)
        return buffer.getvalue()

    return make


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    """Writes shards of `samples` (bytes by extension) and the text files; None leaves a file out."""

    def write(
        name: str,
        samples: Sequence[Members],
        *,
        classnames: str | None = "red\ngreen\nblue",
        templates: str | None = "a {c} thing.\nsomething {c}",
        kind: str | None = None,
        per_shard: int = 4,
    ) -> Path:
        root = tmp_path / "data" / name
        (root / "test").mkdir(parents=True)
        shards = [samples[i : i + per_shard] for i in range(0, len(samples), per_shard)]
        for number, shard in enumerate(shards):
            write_tar(root / "test" / f"{number}.tar", shard, first=number * per_shard)
        (root / "test" / "nshards.txt").write_text(f"{len(shards)}\n")
        texts = {
            "classnames.txt": classnames,
            "zeroshot_classification_templates.txt": templates,
            "dataset_type.txt": kind,
        }
        for file, text in texts.items():
            if text is not None:
                (root / file).write_text(text)
        return root

    return write


@pytest.fixture
def colour_set(write_folder: WriteFolder, picture: Callable[..., bytes]) -> Path:
    """Nine images of three colours, in three formats and three shards; a perfect score for ColourEncoder."""
    formats = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    samples = [
        {extension: picture(colour, fmt=fmt), "cls": str(label).encode()}
        for extension, fmt in formats.items()
        for label, colour in enumerate(COLOURS)
    ]
    return write_folder("colours", samples)


@pytest.fixture(scope="session")
def export_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export directory with a tiny CLIP whose weights are large enough for features to differ."""
    import open_clip
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.CLIP(**json.loads(json.dumps(TINY_CONFIG)))
        weights = {name: 3 * tensor.contiguous() for name, tensor in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("export")
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CONFIG, "preprocess_cfg": preprocess}))
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder
