"""One image of a source: checked, and passed through byte for byte unless it is to be made smaller."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from pineco.data_pipeline.images.decode import MAX_PIXELS, DecodeError, decode_image, image_format
from pineco.data_pipeline.prepare.outcome import RejectError

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
EMPTY, FOREIGN, UNREADABLE = "empty image", "no JPEG, PNG or WebP image", "image does not decode"


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """What is done with every image; all of it decides bytes."""

    verify: Literal["decode", "header", "none"] = "decode"
    resize: int | None = None  # pixels of the shorter side at most
    quality: int = 95  # of the JPEG that a resized image becomes; img2dataset's default


@dataclass(frozen=True)
class Checked:
    extension: str
    data: bytes
    size: tuple[int, int] | None  # (width, height) of a resized image


def check_image(data: bytes, rules: ImageRules) -> Checked:
    """Raises RejectError for what our decoder would not read; formats go by magic bytes, never by name.

    GIF, BMP and TIFF are rejected, not converted. A resized image is what training would have decoded (turned upright
    by EXIF, no transparency), shrunk with Pillow's bicubic filter. Small images keep their bytes and their EXIF.
    """
    try:
        kind = image_format(data)
    except DecodeError as error:
        raise RejectError(FOREIGN if data else EMPTY, str(error) if data else "") from None
    checked = Checked(EXTENSIONS[kind], data, None)
    if rules.resize is None and rules.verify == "none":
        return checked
    if rules.resize is None and rules.verify == "header" and kind != "WEBP":
        _check_header(data, kind)
        return checked
    pixels = _decode(data)
    if rules.resize is None or min(pixels.shape[:2]) <= rules.resize:
        return checked
    return _shrink(pixels, rules.resize, rules.quality)


def _check_header(data: bytes, kind: Literal["JPEG", "PNG"]) -> None:
    try:
        if kind == "JPEG":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        elif data[12:16] == b"IHDR" and len(data) >= 24:
            width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
        else:
            raise ValueError("a PNG without a header")
    except (ValueError, KeyError) as error:  # KeyError: a subsampling that simplejpeg has no name for
        raise RejectError(UNREADABLE, str(error)) from None
    if not 0 < width * height <= MAX_PIXELS:
        raise RejectError(UNREADABLE, f"{width} x {height} pixels (limit {MAX_PIXELS} pixels)")


def _decode(data: bytes) -> np.ndarray:
    try:
        return decode_image(data)
    except DecodeError as error:
        raise RejectError(UNREADABLE, str(error)) from None


def _shrink(pixels: np.ndarray, shorter: int, quality: int) -> Checked:
    """pixels: (H, W, 3) uint8, of which the shorter side becomes `shorter`."""
    image, out = Image.fromarray(pixels), io.BytesIO()
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(side * scale)) for side in image.size)
    try:
        image.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    except (OSError, ValueError) as error:  # a side of more than 65,535 pixels
        raise RejectError(UNREADABLE, f"{width} x {height} pixels: {error}") from None
    return Checked("jpg", out.getvalue(), (width, height))
