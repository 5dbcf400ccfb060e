"""From image bytes to pixels: formats by magic bytes, size before pixels, strict JPEG first."""

from __future__ import annotations

import io
import struct
import threading
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pineco.data_pipeline.errors import InputError

Format = Literal["JPEG", "PNG", "WEBP"]

MAX_PIXELS = 1 << 26  # 67 megapixels; a larger image is a bomb or a mistake
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
_APP1, _START_OF_SCAN, _END_OF_IMAGE, _FILL = 0xE1, 0xDA, 0xD9, 0xFF
_SEGMENTS = 64  # of a JPEG that are searched for Exif, which belongs into the first or second
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf")  # all that decides pixels and orientation


class DecodeError(InputError):
    """These bytes are no image that we read: says why."""


class DecodeCounts:
    """What was decoded so far. Threads may share one."""

    def __init__(self) -> None:
        self.decoded = 0  # images
        self.fallbacks = 0  # of these, JPEGs that the strict decoder refused and Pillow read
        self._lock = threading.Lock()

    def add(self, *, fallback: bool) -> None:
        with self._lock:
            self.decoded += 1
            self.fallbacks += fallback


def image_format(data: bytes) -> Format:
    """The format by magic bytes; raises DecodeError for anything else, whatever its name."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    raise DecodeError(f"not a JPEG, PNG or WebP image ({len(data)} bytes, starts with {data[:8].hex() or 'nothing'})")


def decode_image(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
    at_least: tuple[int, int] | None = None,
    counts: DecodeCounts | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB, the first frame of an animation. Raises DecodeError, and no other error, for bad bytes.

    The pixels are those of Pillow's convert("RGB") bit for bit, alpha dropped; only 16-bit grey is scaled to 8 bits
    where Pillow clips it. `upright` turns the image as its Exif orientation says. `at_least` (height, width of the
    upright image) lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size as long as that stays as large: faster, and
    not Pillow's pixels any more. `counts` is told of every image that was decoded.
    """
    kind = image_format(data)
    fallback = False
    if kind == "JPEG":
        orientation = _orientation(_jpeg_exif(data)) if upright else 1
        needed = at_least[::-1] if at_least and orientation >= 5 else at_least
        pixels, fallback = _decode_jpeg(data, max_pixels, needed)
    else:
        pixels, exif = _decode_pillow(data, kind, max_pixels)
        orientation = _orientation(exif) if upright else 1
    if counts is not None:
        counts.add(fallback=fallback)
    return _turn(pixels, orientation)


def _decode_jpeg(data: bytes, max_pixels: int, needed: tuple[int, int] | None) -> tuple[np.ndarray, bool]:
    """(pixels as they are stored, whether Pillow had to stand in).

    simplejpeg is 1.4 times as fast as Pillow on photographs of 500 x 375 pixels, 4 times on 1024 x 768, and its strict
    mode refuses many flipped bytes that Pillow decodes. Samples of shards pass their crc32 before they come here, so
    that a refusal means an odd encoder, not damage, and every other tool trains on that image: Pillow decides, and the
    image is counted. A file that was cut is refused by both.
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        if space in ("CMYK", "YCCK"):
            return _decode_pillow(data, "JPEG", max_pixels)[0], False
        rows, columns = _reduced(height, width, needed)
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, min_height=rows, min_width=columns), False
    except DecodeError:
        raise
    except (ValueError, KeyError) as error:  # KeyError: a subsampling that simplejpeg has no name for
        strict = error
    try:
        return _decode_pillow(data, "JPEG", max_pixels)[0], True
    except DecodeError as error:
        raise DecodeError(f"{error}; damaged JPEG to the strict decoder: {strict}") from None


def _reduced(height: int, width: int, needed: tuple[int, int] | None) -> tuple[int, int]:
    """(rows, columns) of the smallest of 1/8, 1/4, 1/2 that is large enough; zeros, which ask for all, if none is.

    The DCT knows every eighth. 3/8 takes longer than 1/2, and 5/8, 6/8 and 7/8 longer than the whole: 2.9, 3.5 and
    4.2 ms where a smooth 1024 x 768 takes 2.3 and its half 1.9.
    """
    if needed is None:
        return 0, 0
    for factor in (8, 4, 2):
        rows, columns = -(-height // factor), -(-width // factor)
        if rows >= needed[0] and columns >= needed[1]:
            return rows, columns
    return 0, 0


def _decode_pillow(data: bytes, kind: Format, max_pixels: int) -> tuple[np.ndarray, bytes]:
    """(pixels as they are stored, Exif)."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InputError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, and half images would pass: do not set it")
    if kind == "WEBP":  # Pillow allocates its canvas on opening
        _check_size(*_webp_size(data), max_pixels)
    try:
        image = _open(data, kind)
        _check_size(*image.size, max_pixels)
        return _rgb(image), image.info.get("exif", b"")
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # what Pillow raises for hostile bytes is of many kinds
        raise DecodeError(f"damaged image: {' '.join(str(error).split())}") from None


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nobody needs the resolution, and Pillow's Exif reader prints warnings about tags that are written badly."""


def _open(data: bytes, kind: Format) -> ImageFile.ImageFile:
    """Not by Image.open, which warns of images that are large but below our limit, and asks every plugin."""
    if kind == "JPEG":
        return _Jpeg(io.BytesIO(data))
    return PngImageFile(io.BytesIO(_plain_png(data))) if kind == "PNG" else WebPImageFile(io.BytesIO(data))


def _plain_png(data: bytes) -> bytes:
    """The PNG without text, profiles, transparency and animation.

    None of it changes a pixel, but Pillow warns of some of it, unpacks some, and takes texts for settings: one called
    bbox or transparency makes a good image fail.
    """
    parts, place = [data[:8]], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in _PNG_CHUNKS:
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def _rgb(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255 instead of scaling it
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A contiguous (H, W, 3) that stands as the Exif orientation says."""
    if orientation == 1:
        return pixels
    whole = pixels.view("V3")[:, :, 0]  # one item a pixel: 1.6 ms instead of 3.3 to copy 1024 x 768 of them turned
    if orientation in (3, 4, 6, 7):
        whole = whole[::-1]
    if orientation in (2, 3, 7, 8):
        whole = whole[:, ::-1]
    if orientation >= 5:
        whole = whole.T
    return np.ascontiguousarray(whole).view(np.uint8).reshape(*whole.shape, 3)


def _jpeg_exif(data: bytes) -> bytes:
    """The first Exif segment ahead of the pixels, from its name on; empty where there is none."""
    place = 2
    for _ in range(_SEGMENTS):
        place = data.find(b"\xff", place)
        marker = data[place + 1] if 0 <= place < len(data) - 1 else _END_OF_IMAGE
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        if marker == _FILL:
            place += 1
            continue
        start, place = place + 4, place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _APP1 and data.startswith(b"Exif\0\0", start):
            return data[start:place]
    return b""


def _orientation(exif: bytes) -> int:
    """1 to 8; 1 where there is none. Reads this one tag: a camera that wrote another one badly does no harm."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", exif, place)
            if tag == _ORIENTATION and kind in (_SHORT, _LONG) and number == 1:
                (value,) = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), exif, place + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # the block was cut
        return 1
    return 1


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) that the first chunk claims; small where it is cut, which Pillow then notices."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        sides = int.from_bytes(data[21:25], "little")
        return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(f"image of {width} x {height} pixels (limit {max_pixels} pixels)")
