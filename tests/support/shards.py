"""Shards and images in memory and as files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

Files = Iterable[tuple[str, bytes]]


def tar_bytes(files: Files, tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive of regular files, written by the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_shard(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files))
    return path


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def solid(value: int, side: int = 8) -> bytes:
    """A PNG in which every pixel is (value, 255 - value, 7), so that a test can tell images apart."""
    return encode(Image.new("RGB", (side, side), (value, 255 - value, 7)), "PNG")


def natural_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 with the 1/f spectrum of photographs."""
    noise = np.random.default_rng(seed).standard_normal((3, height, width))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    image = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    image /= image.std(axis=(1, 2), keepdims=True)
    return np.ascontiguousarray(np.clip(image * 50 + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0))
