"""Where the time of an image goes, step by step in one thread, and how fast shards are indexed."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pineco.data_pipeline.images.decode import decode_image
from pineco.data_pipeline.images.image_text import ImageTextSource
from pineco.data_pipeline.images.transforms import Augmentation, random_crop_box, resize_crop, to_tensor
from pineco.data_pipeline.index import scan_file
from pineco.data_pipeline.randomness import Stream, generator
from tests.bench.data.figures import Demand, Figure, Result
from tests.bench.data.image_text import SIDE, Transform
from tests.bench.data.rounds import cores, on_cores

Step = Callable[[int], Any]  # of the image with this number


def measure(source: ImageTextSource, *, transform: Transform, images: int, rounds: int) -> Result:
    """Microseconds of computing an image for every step of ours, and for Pillow's."""
    with on_cores(cores()[0]):
        steps = _steps(source, transform, images)
        spent: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + 1):
            for name, step in steps.items():
                micros = _seconds(step, range(images)) / images * 1e6
                if number:
                    spent[name].append(micros)
    return Result([Figure(name, "us/img of CPU", tuple(values)) for name, values in spent.items()], [])


def measure_index(folder: Path, *, rounds: int) -> Result:
    """How fast a shard is indexed: headers parsed, members summed up."""
    paths = sorted(folder.glob("*.tar"))
    size, speeds, rates = sum(path.stat().st_size for path in paths), [], []
    with on_cores(cores()[0]):
        for _ in range(rounds):
            began = time.process_time()
            samples = sum(len(scan_file(path).members) for path in paths)
            seconds = time.process_time() - began
            speeds.append(size / seconds / 1e6)
            rates.append(samples / seconds)
    what = "indexing shards of samples of 62 KB, one core"
    demands: list[Demand] = []
    return Result([Figure(what, "MB/s of CPU", tuple(speeds)), Figure(what, "samples/s of CPU", tuple(rates))], demands)


def _steps(source: ImageTextSource, transform: Transform, images: int) -> dict[str, Step]:
    members = [source.reader.read(np.array([n]))[n] for n in range(images)]
    jpegs = [bytes(m["jpg"]) for m in members if isinstance(m, dict)]
    captions = [bytes(m["txt"]).decode() for m in members if isinstance(m, dict)]
    assert len(captions) == images
    pixels = [to_tensor(decode_image(jpeg)) for jpeg in jpegs]
    pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in jpegs]
    settings, batch = Augmentation(), torch.empty(images, 3, SIDE, SIDE, dtype=torch.uint8)

    def box(n: int) -> tuple[int, int, int, int]:
        height, width = pixels[n].shape[1:]
        return random_crop_box(height, width, settings, generator(0, Stream.AUGMENTATION, 0, n))

    boxes = [box(n) for n in range(images)]
    crops = [resize_crop(image, place, SIDE) for image, place in zip(pixels, boxes, strict=True)]
    return {
        "read one sample": lambda n: source.reader.read(np.array([n])),
        "tokenise": lambda n: source.tokenize([captions[n]]),
        "draw a crop": box,
        "decode_image": lambda n: decode_image(jpegs[n]),
        "crop and resize": lambda n: resize_crop(pixels[n], boxes[n], SIDE),
        "copy into the batch": lambda n: batch[n].copy_(crops[n]),
        "Pillow: decode": lambda n: Image.open(io.BytesIO(jpegs[n])).convert("RGB"),
        "Pillow: crop, resize, normalise": lambda n: transform(pictures[n]),
    }


def _seconds(step: Step, numbers: Iterable[int]) -> float:
    began = time.process_time()
    for n in numbers:
        step(n)
    return time.process_time() - began
