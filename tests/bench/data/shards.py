"""Shards to measure on: photographs in all that costs time, and bytes of the size of photographs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pineco.data_pipeline.stores.tar_writer import TarWriter

HEIGHT, WIDTH, QUALITY = 375, 500, 90
SAMPLE_BYTES = 62_000
_SLOPE, _LIGHT, _COLOUR = 1.4, 55, 20  # amplitude ~ 1 / frequency ** slope: JPEGs of some 65 KB at quality 90
_WORDS = ("a", "the", "two", "dogs", "girl", "man", "red", "ball", "runs", "over", "grass", "near", "water", "city")


def write_photos(folder: Path, *, shards: int, samples: int, distinct: int) -> None:
    """Shards of `samples` pairs each: one of `distinct` JPEGs of 500 x 375 pixels, and a caption of its own."""
    photos = [photo(seed) for seed in range(distinct)]
    _write(folder, shards, samples, lambda sample: photos[sample % distinct])


def write_bytes(folder: Path, *, shards: int, samples: int) -> None:
    """The same with random bytes for images: to be read, not to be decoded."""
    _write(folder, shards, samples, lambda sample: np.random.default_rng(sample).bytes(SAMPLE_BYTES))


def photo(seed: int) -> bytes:
    """A JPEG of noise with the spectrum of photographs, most of its contrast in brightness."""
    noise = np.random.default_rng(seed).standard_normal((3, HEIGHT, WIDTH))
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    fall = np.maximum(np.hypot(rows, columns), 1 / WIDTH) ** _SLOPE
    planes = np.fft.irfft2(np.fft.rfft2(noise) / fall, s=(HEIGHT, WIDTH))
    light, red, blue = planes / planes.std(axis=(1, 2), keepdims=True)
    pixels = 128 + _LIGHT * light[..., None] + _COLOUR * np.stack([red, -(red + blue) / 2, blue], axis=-1)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def caption(seed: int) -> str:
    """Eight to fourteen words."""
    random = np.random.default_rng(seed)
    return " ".join(random.choice(_WORDS, random.integers(8, 15)))


def _write(folder: Path, shards: int, samples: int, image: Callable[[int], bytes]) -> None:
    folder.mkdir(parents=True)
    for shard in range(shards):
        with (folder / f"{shard:05d}.tar").open("wb") as file:
            archive = TarWriter(file)
            for sample in range(shard * samples, (shard + 1) * samples):
                archive.add(f"{sample:08d}.jpg", image(sample))
                archive.add(f"{sample:08d}.txt", caption(sample).encode())
            archive.close()
