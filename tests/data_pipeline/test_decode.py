"""Image decoding: Pillow's pixels where an image is good, a DecodeError where it is not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from data_pipeline import decode as decode_module
from data_pipeline.decode import DecodeError, decode_image, image_format
from tests.data_pipeline.conftest import encode, natural_image

PHOTO = Image.fromarray(natural_image(47, 33))
ORIENTATION = 0x0112


def by_pillow(data: bytes) -> np.ndarray:
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    """A hand-built PNG; raw: rows that begin with their filter byte. colour: 0 grey, 2 RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Hand-built EXIF of (tag, type, count, value) entries."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


def oriented(orientation: int) -> bytes:
    return exif((ORIENTATION, 3, 1, bytes([orientation])))


def claims(width: int, height: int, image_kind: str) -> bytes:
    """A small image whose header claims this size."""
    if image_kind == "PNG":
        return png(width, height, 8, 2, b"\0" * 9)
    data = bytearray(encode(PHOTO, "JPEG", **({"exif": oriented(6)} if image_kind == "JPEG-EXIF" else {})))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        encode(PHOTO, "JPEG", quality=90),
        encode(PHOTO, "JPEG", quality=60, subsampling="4:4:4"),
        encode(PHOTO, "JPEG", quality=60, subsampling="4:2:2"),
        encode(PHOTO, "JPEG", progressive=True),
        encode(PHOTO.convert("L"), "JPEG"),
        encode(PHOTO.convert("CMYK"), "JPEG"),
        encode(PHOTO.convert("L"), "PNG"),
        encode(PHOTO.convert("1"), "PNG"),
        encode(PHOTO.convert("P"), "PNG"),
        encode(PHOTO.convert("P"), "PNG", transparency=3),
        encode(PHOTO.convert("LA"), "PNG"),
        encode(PHOTO, "WEBP", quality=80),
    ],
    ids=[
        "rgb",
        "444",
        "422",
        "progressive",
        "grey",
        "cmyk",
        "png-grey",
        "png-1bit",
        "palette",
        "palette-alpha",
        "grey-alpha",
        "webp",
    ],
)
def test_pixels_are_those_of_pillow(data: bytes) -> None:
    """The encoder would be trained on other pixels than the models it is compared with."""
    pixels = decode_image(data)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (47, 33, 3))
    assert np.array_equal(pixels, by_pillow(data))
    pixels[0, 0, 0] = 1  # writeable: torch shares the memory


@pytest.mark.parametrize(
    "data",
    [encode(PHOTO, "PNG"), encode(PHOTO, "PNG", exif=oriented(1)), encode(PHOTO, "WEBP", lossless=True)],
    ids=["png", "png-exif", "webp"],
)
def test_lossless_pixels_come_back(data: bytes) -> None:
    """Channels or rows would be swapped, in Pillow as here."""
    assert np.array_equal(decode_image(data), np.asarray(PHOTO))


def test_alpha_is_dropped_not_blended() -> None:
    """Transparent pixels would be painted over: other pixels than open_clip's convert("RGB")."""
    image = PHOTO.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert np.array_equal(decode_image(encode(image, "PNG")), np.asarray(PHOTO))


def test_16_bits_are_scaled_to_8() -> None:
    """16-bit grey images would be white: Pillow clips them at 255."""
    values = np.linspace(0, 65535, 20 * 30).astype(">u2").reshape(20, 30)
    grey = png(30, 20, 16, 0, b"".join(b"\0" + row.tobytes() for row in values))
    assert np.array_equal(decode_image(grey), np.repeat((values >> 8)[:, :, None], 3, axis=2))
    colours = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(">u2")
    rgb = png(30, 20, 16, 2, b"".join(b"\0" + row.tobytes() for row in colours))
    assert np.array_equal(decode_image(rgb), colours >> 8)


@pytest.mark.parametrize("image_kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation: int, image_kind: str) -> None:
    """Photographs taken upright would lie on their side."""
    data = encode(PHOTO, image_kind, exif=oriented(orientation))
    pixels = decode_image(data)
    assert pixels.shape[:2] == ((33, 47) if orientation >= 5 else (47, 33))
    assert np.array_equal(pixels, by_pillow(data))


@pytest.mark.parametrize("tag", [0x0100, 0x011A], ids=["text-for-number", "text-for-ratio"])
def test_a_badly_written_exif_tag_does_no_harm(tag: int) -> None:
    """One camera with a wrong tag would stop a run."""
    good, bad = oriented(6), exif((ORIENTATION, 3, 1, b"\6"), (tag, 2, 2, b"x"))
    assert np.array_equal(decode_image(encode(PHOTO, "JPEG", exif=bad)), by_pillow(encode(PHOTO, "JPEG", exif=good)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode(PHOTO, "GIF"), "starts with 474946"),
        (encode(PHOTO, "EPS"), "starts with 252150"),
        (encode(PHOTO, "BMP"), "starts with 424d"),
        (encode(PHOTO, "TIFF"), "starts with 49492a"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "starts with 52494646"),
        (b"<svg/>", "6 bytes"),
        (b"", "starts with nothing"),
    ],
    ids=["gif", "eps", "bmp", "tiff", "wav", "svg", "empty"],
)
def test_other_formats_are_refused_by_their_bytes(data: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed file would reach a decoder that nobody has vetted; EPS even runs a program."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(DecodeError, match=f"not a JPEG, PNG or WebP image.*{message}"):
        decode_image(data)


def test_format_by_magic_bytes() -> None:
    """An image would be sent to the wrong decoder."""
    assert [image_format(encode(PHOTO, f)) for f in ("JPEG", "PNG", "WEBP")] == ["JPEG", "PNG", "WEBP"]


@pytest.mark.parametrize("image_kind", ["JPEG", "JPEG-EXIF", "PNG"])
@pytest.mark.parametrize("side", [60_000, 9_000])  # Pillow's own limit lies between them
def test_bombs_are_refused_by_their_header(side: int, image_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of a few bytes would fill the memory of the machine."""
    monkeypatch.setattr(decode_module.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(DecodeError, match="pixels"):
        decode_image(claims(side, side, image_kind))


@pytest.mark.parametrize("image_kind", ["JPEG", "PNG", "WEBP"])
def test_the_limit_counts_pixels(image_kind: str) -> None:
    """The limit would bite one pixel early, or not at all."""
    data = encode(PHOTO, image_kind)
    assert decode_image(data, max_pixels=47 * 33).shape == (47, 33, 3)
    with pytest.raises(DecodeError, match=r"image of 33 x 47 pixels \(limit 1550 pixels\)"):
        decode_image(data, max_pixels=47 * 33 - 1)


@pytest.mark.parametrize(
    "data",
    [
        encode(PHOTO, "JPEG"),
        encode(PHOTO, "JPEG", progressive=True),
        encode(PHOTO, "JPEG", exif=oriented(6)),
        encode(PHOTO.convert("CMYK"), "JPEG"),
        encode(PHOTO, "PNG"),
        encode(PHOTO, "WEBP"),
    ],
    ids=["jpeg", "progressive", "exif", "cmyk", "png", "webp"],
)
def test_truncated_images_are_refused(data: bytes) -> None:
    """Half an image would be trained on, its rest grey."""
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(DecodeError):
            decode_image(data[: int(len(data) * share)])


def test_flipped_bytes_in_mid_scan_are_noticed() -> None:
    """Damaged pixels would be trained on: Pillow decodes most of these images without a word."""
    data = encode(Image.fromarray(natural_image(96, 128)), "JPEG", quality=90)
    scan = data.index(b"\xff\xda") + 14
    noticed, noticed_by_pillow = 0, 0  # the other flips leave a valid stream of other coefficients
    for place in range(scan + 50, len(data) - 2, 23):
        broken = bytearray(data)
        broken[place] ^= 0x10
        try:
            decode_image(bytes(broken))
        except DecodeError:
            noticed += 1
        try:
            by_pillow(bytes(broken))
        except OSError:
            noticed_by_pillow += 1
    assert (noticed, noticed_by_pillow) == (144, 2)  # of 371


VICTIMS = [
    encode(PHOTO, "JPEG"),
    encode(PHOTO, "JPEG", exif=exif((ORIENTATION, 3, 1, b"\6"), (0x0100, 2, 2, b"x"), (0x011A, 2, 2, b"y"))),
    encode(PHOTO.convert("CMYK"), "JPEG"),
    encode(PHOTO.convert("P"), "PNG", transparency=b"\0\1\2", exif=oriented(3)),
    encode(PHOTO, "WEBP", exif=oriented(8)),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken EXIF
@given(
    st.sampled_from(VICTIMS), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6), st.booleans()
)
@settings(max_examples=300, deadline=None)
def test_broken_images_only_ever_raise_decode_error(
    data: bytes, changes: list[tuple[float, int]], in_head: bool
) -> None:
    """A damaged image would end a run with an error that names no sample."""
    broken = bytearray(data)
    for share, value in changes:
        broken[int(share * (100 if in_head else len(data)))] = value
    try:
        pixels = decode_image(bytes(broken), max_pixels=1 << 16)
    except DecodeError:
        return
    assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
