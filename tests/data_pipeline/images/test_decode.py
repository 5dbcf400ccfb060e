"""Image decoding: Pillow's pixels where an image is good, a DecodeError where it is not."""

from __future__ import annotations

import io
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pineco.data_pipeline.images import decode as decode_module
from pineco.data_pipeline.images.decode import DecodeCounts, DecodeError, decode_image, image_format
from pineco.data_pipeline.images.transforms import resize_square, to_tensor
from tests.support.odd_images import (
    FRAMES,
    ORIENTATION,
    PHOTO,
    PLAIN,
    by_pillow,
    chunk,
    exif,
    insert,
    oriented,
    patch_frame,
    png,
    ycck,
)
from tests.support.shards import encode, natural_image


def test_format_by_magic_bytes() -> None:
    """An image would be sent to the wrong decoder."""
    assert [image_format(encode(PHOTO, f)) for f in ("JPEG", "PNG", "WEBP")] == ["JPEG", "PNG", "WEBP"]


@pytest.mark.parametrize(
    "data",
    [
        encode(PHOTO, "JPEG", quality=90),
        encode(PHOTO, "JPEG", quality=60, subsampling="4:4:4"),
        encode(PHOTO, "JPEG", quality=60, subsampling="4:2:2"),
        simplejpeg.encode_jpeg(np.asarray(PHOTO), colorsubsampling="440"),
        simplejpeg.encode_jpeg(np.asarray(PHOTO), colorsubsampling="411"),
        encode(PHOTO, "JPEG", keep_rgb=True),
        encode(PHOTO, "JPEG", progressive=True),
        encode(PHOTO, "JPEG", restart_marker_blocks=2),
        encode(PHOTO.convert("L"), "JPEG"),
        encode(PHOTO.convert("CMYK"), "JPEG"),
        ycck(),
        encode(PHOTO.convert("L"), "PNG"),
        encode(PHOTO.convert("1"), "PNG"),
        encode(PHOTO.convert("P"), "PNG"),
        encode(PHOTO.convert("P"), "PNG", transparency=3),
        encode(PHOTO.convert("LA"), "PNG"),
        encode(PHOTO, "WEBP", quality=80),
        encode(PHOTO.convert("RGBA"), "WEBP", lossless=True),
        encode(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
        encode(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:], default_image=True),
        encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    ],
    ids=[
        "rgb",
        "444",
        "422",
        "440",
        "411",
        "not-ycbcr",
        "progressive",
        "restart",
        "grey",
        "cmyk",
        "ycck",
        "png-grey",
        "png-1bit",
        "palette",
        "palette-alpha",
        "grey-alpha",
        "webp",
        "webp-alpha",
        "animated-png",
        "animated-png-with-a-still",
        "animated-webp",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, when the test asks it
def test_pixels_are_those_of_pillow(data: bytes) -> None:
    """I1: the encoder would be trained on other pixels than the models it is compared with.

    Of an animation that is the first frame, which is what `Image.open(...).convert("RGB")` gives to open_clip.
    """
    counts = DecodeCounts()
    pixels = decode_image(data, counts=counts)
    assert (pixels.dtype, pixels.shape) == (np.dtype(np.uint8), (47, 33, 3))
    assert np.array_equal(pixels, by_pillow(data))
    assert (counts.decoded, counts.fallbacks) == (1, 0)
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
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation: int, order: str, image_kind: str) -> None:
    """I1: photographs taken upright would lie on their side."""
    data = encode(PHOTO, image_kind, exif=oriented(orientation, order))
    pixels = decode_image(data)
    assert pixels.shape[:2] == ((33, 47) if orientation >= 5 else (47, 33))
    assert np.array_equal(pixels, by_pillow(data))
    assert pixels.flags.c_contiguous  # torch takes no negative strides
    assert np.array_equal(decode_image(data, upright=False), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_an_odd_mode_is_turned_like_any_other() -> None:
    """The turn, which moves whole pixels, would fail on an image of another colour space."""
    cmyk = encode(PHOTO.convert("CMYK"), "JPEG", exif=oriented(7))
    assert np.array_equal(decode_image(cmyk), by_pillow(cmyk))
    grey = png(30, 20, 16, 0, bytes(20 * 61))
    exif_chunk = chunk(b"eXIf", oriented(6).removeprefix(b"Exif\0\0"))
    assert decode_image(grey[:-12] + exif_chunk + grey[-12:]).shape == (30, 20, 3)  # behind the pixels


JFIF, XMP, MPF = (
    (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
    (0xE2, b"MPF\0II*\0"),
)


@pytest.mark.parametrize(
    ("data", "orientation"),
    [
        (insert(PLAIN, (0xE1, oriented(1))), 1),
        (insert(PLAIN, (0xE1, oriented(6))), 6),
        (insert(PLAIN, JFIF, XMP, (0xE1, oriented(6)), MPF), 6),
        (insert(PLAIN, MPF, (0xE2, b"MPF\0" + oriented(6)), (0xE1, oriented(8))), 8),
        (insert(PLAIN, (0xFE, oriented(6))), 1),
        (PLAIN[:2] + b"\xff" + insert(PLAIN, (0xE1, oriented(6)))[2:], 6),
        (insert(PLAIN, (0xE1, b"Exif\0\0")), 1),
        (insert(PLAIN, (0xE1, b"Exif\0\0\0\0\0\0" + oriented(6)[10:])), 1),
        (insert(PLAIN, (0xE1, oriented(6)[:20])), 1),
        (insert(PLAIN, (0xE1, oriented(0))), 1),
        (insert(PLAIN, (0xE1, oriented(9))), 1),
        (insert(PLAIN, (0xE1, oriented(256))), 1),
        (insert(PLAIN, (0xE1, exif((ORIENTATION, 4, 1, b"\6")))), 6),
        (insert(PLAIN, (0xE1, exif((ORIENTATION, 2, 2, b"6")))), 1),
        (insert(PLAIN, (0xE1, exif((0x0100, 2, 2, b"x"), (ORIENTATION, 3, 1, b"\6")))), 6),
        (insert(PLAIN, (0xE1, exif((ORIENTATION, 3, 1, b"\6"), (0x011A, 2, 2, b"x")))), 6),
        (insert(PLAIN, *([(0xE1, b"")] * 1000), (0xE1, oriented(6))), 1),
    ],
    ids=[
        "upright",
        "turned",
        "after-jfif-and-xmp",
        "after-mpf",
        "in-a-comment",
        "fill-byte",
        "empty",
        "no-byte-order",
        "cut",
        "zero",
        "nine",
        "wrong-byte-order",
        "long",
        "text",
        "text-for-width",
        "text-for-resolution",
        "behind-a-thousand",
    ],
)
def test_exif_costs_neither_speed_nor_pixels(data: bytes, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: every photograph of a camera would go to the slow decoder, and one with a badly written tag would stop a run.

    Pillow reads every case in the same way or fails, but for the last: Exif belongs in front, and a search has to end.
    """
    monkeypatch.setattr(decode_module, "_decode_pillow", lambda *_: pytest.fail("Pillow was asked"))
    assert np.array_equal(decode_image(data), by_pillow(encode(PHOTO, "JPEG", exif=oriented(orientation))))


@pytest.mark.parametrize(
    ("size", "at_least", "decoded"),
    [
        ((768, 1024), (224, 224), (384, 512)),  # 3/8 would be large enough, too, and slower
        ((768, 1024), (384, 512), (384, 512)),
        ((768, 1024), (385, 1), (768, 1024)),
        ((768, 1024), (1, 513), (768, 1024)),
        ((768, 1024), (192, 200), (192, 256)),
        ((768, 1024), (1, 1), (96, 128)),
        ((767, 1023), (384, 512), (384, 512)),
        ((200, 150), (224, 224), (200, 150)),
        ((1, 1), (1, 1), (1, 1)),
    ],
)
def test_a_reduced_image_is_a_half_a_quarter_or_an_eighth(
    size: tuple[int, int], at_least: tuple[int, int], decoded: tuple[int, int]
) -> None:
    """Images would be enlarged again after decoding, and blurred; or a slow scale would be chosen."""
    data = simplejpeg.encode_jpeg(natural_image(800, 1100)[: size[0], : size[1]].copy())
    pixels = decode_image(data, at_least=at_least)
    assert pixels.shape == (*decoded, 3)
    factor, by_draft = round(size[1] / decoded[1]), Image.open(io.BytesIO(data))
    by_draft.draft("RGB", (size[1] // factor, size[0] // factor))
    assert np.array_equal(pixels, np.asarray(by_draft))  # Pillow's own scaling in the DCT


def test_a_reduced_image_is_close_to_the_whole_one() -> None:
    """Training at reduced size would see other images. Noise in every frequency, the worst case, differs most."""
    data = encode(Image.fromarray(natural_image(768, 1024)), "JPEG", quality=90)
    whole, half = (resize_square(to_tensor(decode_image(data, at_least=n)), 224).int() for n in (None, (224, 224)))
    difference = (whole - half).abs()
    assert difference.max() <= 11  # measured: 11
    assert difference.float().mean() < 1.7  # measured: 1.687


def test_what_is_needed_is_meant_upright() -> None:
    """A portrait stored on its side would be decoded too small, or its size not be reduced."""
    data = encode(Image.fromarray(natural_image(100, 400)), "JPEG", exif=oriented(6))
    assert decode_image(data).shape == (400, 100, 3)
    assert decode_image(data, at_least=(200, 50)).shape == (200, 50, 3)
    assert decode_image(data, at_least=(50, 200)).shape == (400, 100, 3)
    assert decode_image(data, at_least=(50, 200), upright=False).shape == (50, 200, 3)
    assert decode_image(encode(PHOTO, "PNG"), at_least=(1, 1)).shape == (47, 33, 3)  # only the DCT can


HEAD = encode(PHOTO.convert("L"), "PNG")[:33]
BODY = encode(PHOTO.convert("L"), "PNG")[33:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"bbox\0abcd"),
        chunk(b"tEXt", b"transparency\0abcd"),
        chunk(b"tEXt", b"interlace\0001"),
        chunk(b"tEXt", b"exif\0abcd"),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 21))),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 21))),
        chunk(b"acTL", bytes(8)),
        chunk(b"fcTL", bytes(26)),
        chunk(b"tRNS", b"\0\7"),
    ],
    ids=["bbox", "transparency", "interlace", "exif", "long-text", "long-profile", "no-frames", "frame", "colour-key"],
)
def test_no_text_or_profile_of_a_png_changes_a_pixel(extra: bytes) -> None:
    """I1: a text that happens to have the name of one of Pillow's settings would break or move the image."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode_image(HEAD + extra + BODY), decode_image(HEAD + BODY))


SCAN = PLAIN.index(b"\xff\xda")
ODD_ENCODERS = {
    "bytes between the segments": PLAIN[:SCAN] + b"\0\0junk" + PLAIN[SCAN:],
    "bytes ahead of the end": PLAIN[:-2] + b"\0\0\0junk" + PLAIN[-2:],
    "a later JFIF": PLAIN.replace(b"JFIF\0\1\1", b"JFIF\0\5\t"),
    "rare subsampling": patch_frame(simplejpeg.encode_jpeg(np.asarray(PHOTO), colorsubsampling="411"), 11, b"\x42"),
    "unnamed subsampling": patch_frame(simplejpeg.encode_jpeg(np.asarray(PHOTO), colorsubsampling="411"), 11, b"\x14"),
}


@pytest.mark.parametrize("name", ODD_ENCODERS)
def test_odd_encoders_are_read_by_pillow_and_counted(name: str) -> None:
    """Images that every other tool reads would be lost, or nobody would learn how many the strict decoder refused."""
    counts = DecodeCounts()
    assert np.array_equal(decode_image(ODD_ENCODERS[name], counts=counts), by_pillow(ODD_ENCODERS[name]))
    assert (counts.decoded, counts.fallbacks) == (1, 1)
    turned = insert(ODD_ENCODERS[name], (0xE1, oriented(6)))
    assert np.array_equal(decode_image(turned), by_pillow(turned))


def test_threads_may_share_counts() -> None:
    """The loader's threads would lose counts, and a budget of fallbacks would never be spent."""
    counts = DecodeCounts()
    odd = ODD_ENCODERS["a later JFIF"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: decode_image(data, counts=counts), [PLAIN, odd, odd] * 100))
    assert (counts.decoded, counts.fallbacks) == (300, 200)


def test_flipped_bytes_in_mid_scan_are_noticed() -> None:
    """Damage would leave no trace: Pillow decodes most of these images without a word, and so they are counted."""
    data = encode(Image.fromarray(natural_image(96, 128)), "JPEG", quality=90)
    scan = data.index(b"\xff\xda") + 14
    counts = DecodeCounts()
    refused, refused_by_pillow = 0, 0  # the other flips leave a valid stream of other coefficients
    for place in range(scan + 50, len(data) - 2, 23):
        broken = bytearray(data)
        broken[place] ^= 0x10
        try:
            decode_image(bytes(broken), counts=counts)
        except DecodeError:
            refused += 1
        try:
            by_pillow(bytes(broken))
        except OSError:
            refused_by_pillow += 1
    assert (counts.fallbacks, refused, refused_by_pillow) == (142, 2, 2)  # of 371
