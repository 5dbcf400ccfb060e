"""From image bytes to pixels: formats by magic bytes, size before pixels, strict JPEG first."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from data_pipeline.errors import InputError

MAX_PIXELS = 1 << 26  # 67 megapixels; a larger image is a bomb or a mistake
_MAGIC = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"))
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what makes the image upright


class DecodeError(InputError):
    """These bytes are no image that we read: says why."""


def image_format(data: bytes) -> str:
    """JPEG, PNG or WEBP by magic bytes; raises DecodeError for anything else, whatever its name."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    raise DecodeError(f"not a JPEG, PNG or WebP image ({len(data)} bytes, starts with {data[:8].hex() or 'nothing'})")


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright where EXIF says so.

    simplejpeg in strict mode is about 2.5 times as fast as Pillow and notices a flipped byte in mid-scan; what it
    does not do (CMYK, rotation, PNG, WebP) goes to Pillow.
    """
    if image_format(data) == "JPEG" and b"Exif\0" not in data[:65536]:
        pixels = _decode_jpeg(data, max_pixels)
        if pixels is not None:
            return pixels
    return _decode_pillow(data, max_pixels)


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        if space in ("CMYK", "YCCK"):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"damaged JPEG: {error}") from None


def _decode_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        _check_size(*image.size, max_pixels)
        return _rgb(_upright(image))
    except DecodeError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(f"damaged image: {error}") from None


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255 instead of scaling it
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """ImageOps.exif_transpose writes all tags anew, and fails where the camera wrote one badly."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(f"image of {width} x {height} pixels (limit {max_pixels} pixels)")
