"""Images for the tests of decoding: good ones, and ones built or bent by hand."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from tests.support.shards import encode, natural_image

PHOTO = Image.fromarray(natural_image(47, 33))
FRAMES = [Image.fromarray(natural_image(47, 33, seed)) for seed in range(3)]
ORIENTATION = 0x0112
PLAIN = encode(PHOTO, "JPEG")


def by_pillow(data: bytes) -> np.ndarray:
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    """A hand-built PNG; raw: rows that begin with their filter byte. colour: 0 grey, 2 RGB."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """Hand-built Exif of (tag, type, count, value) entries; order: < little endian, > big."""
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return b"Exif\0\0" + head + body + bytes(4)


def oriented(orientation: int, order: str = "<") -> bytes:
    return exif((ORIENTATION, 3, 1, struct.pack(order + "H", orientation)), order=order)


def insert(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """The JPEG with (marker, content) segments right behind its first two bytes."""
    parts = [b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments]
    return jpeg[:2] + b"".join(parts) + jpeg[2:]


def patch_frame(jpeg: bytes, offset: int, new: bytes) -> bytes:
    """The JPEG with other bytes in its frame header: 4 precision, 5 height, 7 width, 11 sampling of the luma."""
    place = jpeg.index(b"\xff\xc0") + offset
    return jpeg[:place] + new + jpeg[place + len(new) :]


def claims(width: int, height: int, image_kind: str) -> bytes:
    """A small image whose header claims this size."""
    if image_kind == "PNG":
        return png(width, height, 8, 2, b"\0" * 9)
    if image_kind == "WEBP":
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = encode(PHOTO, "WEBP")[12:]
        head = b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas
        return b"RIFF" + struct.pack("<I", len(head) + len(body)) + head + body
    extra = {"JPEG-EXIF": {"exif": oriented(6)}}.get(image_kind, {})
    image = PHOTO.convert("CMYK") if image_kind == "JPEG-CMYK" else PHOTO
    return patch_frame(encode(image, "JPEG", **extra), 5, struct.pack(">HH", height, width))


def ycck() -> bytes:
    """A CMYK image whose Adobe segment says that it is YCCK."""
    data = encode(PHOTO.convert("CMYK"), "JPEG", quality=95)
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\2" + data[transform + 1 :]
