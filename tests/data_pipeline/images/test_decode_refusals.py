"""Image decoding, what is not decoded: other formats, bombs, cut and broken images."""

from __future__ import annotations

import subprocess
import sys
import timeit
import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, WebPImagePlugin

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images import decode as decode_module
from pineco.data_pipeline.images.decode import DecodeCounts, DecodeError, decode_image
from tests.support.odd_images import (
    FRAMES,
    ORIENTATION,
    PHOTO,
    PLAIN,
    by_pillow,
    chunk,
    claims,
    exif,
    insert,
    oriented,
    patch_frame,
)
from tests.support.shards import encode, natural_image


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode(PHOTO, "GIF"), "starts with 474946"),
        (encode(PHOTO, "EPS"), "starts with 252150"),
        (encode(PHOTO, "BMP"), "starts with 424d"),
        (encode(PHOTO, "TIFF"), "starts with 49492a"),
        (encode(PHOTO, "PDF"), "starts with 255044"),
        (b"\n" + encode(PHOTO, "JPEG"), "starts with 0affd8"),
        (encode(PHOTO, "GIF") + encode(PHOTO, "JPEG"), "starts with 474946"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "starts with 52494646"),
        (b"<svg/>", "6 bytes"),
        (b"", "starts with nothing"),
    ],
    ids=["gif", "eps", "bmp", "tiff", "pdf", "shifted", "gif-then-jpeg", "wav", "svg", "empty"],
)
def test_other_formats_are_refused_by_their_bytes(data: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: a renamed file would reach a decoder that nobody has vetted; EPS even runs a program."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    monkeypatch.setattr(ImageFile.ImageFile, "__init__", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(DecodeError, match=f"not a JPEG, PNG or WebP image.*{message}"):
        decode_image(data)


@pytest.mark.parametrize("head", [PLAIN[:2], PLAIN[:20], encode(PHOTO, "PNG")[:8], encode(PHOTO, "WEBP")[:16]])
@pytest.mark.parametrize("body", ["EPS", "GIF", "TIFF", "BMP"])
def test_another_format_behind_our_magic_bytes_is_not_opened(head: bytes, body: str) -> None:
    """I1: one forged byte would be enough to run Ghostscript."""
    with pytest.raises(DecodeError, match=r"damaged|pixels \(limit"):
        decode_image(head + b"\xff" + encode(PHOTO, body))


@pytest.mark.parametrize("image_kind", ["JPEG", "PNG", "WEBP"])
def test_what_follows_an_image_is_not_looked_at(image_kind: str) -> None:
    """I1: an image that is a zip archive as well would be refused, or its archive be read."""
    data = encode(PHOTO, image_kind)
    archive = b"PK\3\4" + bytes(26) + b"a.pkl" + bytes(100) + encode(PHOTO.rotate(90), image_kind)
    counts = DecodeCounts()
    assert np.array_equal(decode_image(data + archive, counts=counts), decode_image(data))
    assert counts.fallbacks == 0


BOMBS = ["JPEG", "JPEG-EXIF", "JPEG-CMYK", "PNG", "WEBP"]


@pytest.mark.parametrize("image_kind", BOMBS)
@pytest.mark.parametrize("side", [60_000, 9_000])  # Pillow's own limit lies between them
def test_bombs_are_refused_by_their_header(side: int, image_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: an image of a few bytes would fill the memory of the machine."""
    monkeypatch.setattr(decode_module.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "__init__", lambda *_, **__: pytest.fail("canvas allocated"))
    bomb = claims(side, side, image_kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DecodeError, match=f"image of {side} x {side} pixels"):
            decode_image(bomb)


def test_refusing_a_bomb_is_quicker_than_decoding_a_photograph() -> None:
    """I1: a shard of bombs would hold up the loader. A photograph of this size takes about a millisecond."""
    photo = encode(Image.fromarray(natural_image(375, 500)), "JPEG", quality=90)

    def refuse(data: bytes) -> None:
        with pytest.raises(DecodeError):
            decode_image(data)

    decoding = min(timeit.repeat(lambda: decode_image(photo), number=1, repeat=9))
    for kind in BOMBS:
        bomb = claims(60_000, 60_000, kind)
        assert min(timeit.repeat(partial(refuse, bomb), number=1, repeat=9)) < decoding, kind


IN_10_MB = """
import resource, sys
from pineco.data_pipeline.images.decode import DecodeError, decode_image

first, *bombs, allowed = (bytes.fromhex(data) for data in sys.argv[1:])
decode_image(first)  # what the libraries allocate once
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (10 << 20), -1))
for bomb in bombs:
    try:
        decode_image(bomb)
    except DecodeError:
        print("refused")
try:
    decode_image(allowed)
except MemoryError:
    print("out of memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_refusing_a_bomb_takes_less_than_10_mb() -> None:
    """I1: as many bombs at once as the loader has threads would end the process."""
    bombs = [claims(60_000, 60_000, kind) for kind in BOMBS]
    images = [PLAIN, *bombs, claims(4_000, 4_000, "PNG")]  # the last shows that the limit holds
    command = [sys.executable, "-c", IN_10_MB, *(image.hex() for image in images)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.stdout.splitlines(), run.stderr) == (["refused"] * len(bombs) + ["out of memory"], "")


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
        encode(PHOTO, "WEBP"),
        encode(PHOTO, "WEBP", lossless=True),
        encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    ],
    ids=["lossy", "lossless", "animated"],
)
def test_every_kind_of_webp_header_is_read(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: the limit would not see the size that one kind of WebP claims, and Pillow would allocate it."""
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "__init__", lambda *_, **__: pytest.fail("canvas allocated"))
    with pytest.raises(DecodeError, match="image of 33 x 47 pixels"):
        decode_image(data, max_pixels=47 * 33 - 1)


@pytest.mark.parametrize(
    ("data", "needed_to_the_end"),
    [
        (PLAIN, 0),
        (encode(PHOTO, "JPEG", progressive=True), 0),
        (encode(PHOTO, "JPEG", exif=oriented(6)), 0),
        (encode(PHOTO, "JPEG", restart_marker_blocks=2), 0),
        (encode(PHOTO.convert("CMYK"), "JPEG"), 0),
        (encode(PHOTO, "PNG"), 21),
        (encode(PHOTO, "WEBP"), 0),
        (encode(PHOTO, "WEBP", lossless=True), 0),
        (encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), 0),
    ],
    ids=["jpeg", "progressive", "exif", "restart", "cmyk", "png", "webp", "webp-lossless", "webp-animated"],
)
def test_truncated_images_are_refused(data: bytes, needed_to_the_end: int) -> None:
    """I1: half an image would be trained on, its rest grey. PNG alone may lose its last checksums, but no pixel."""
    whole = decode_image(data)
    for length in [*range(0, len(data), 7), *range(len(data) - 40, len(data))]:
        try:
            pixels = decode_image(data[:length])
        except DecodeError:
            continue
        assert len(data) - length <= needed_to_the_end
        assert np.array_equal(pixels, whole)


def test_no_library_may_switch_truncation_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that sets Pillow's global flag would let half images through, in silence."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InputError, match="LOAD_TRUNCATED_IMAGES is on") as caught:
        decode_image(encode(PHOTO, "PNG")[:-200])
    assert not isinstance(caught.value, DecodeError)  # no sample is to blame, and none may be put aside for it


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PLAIN[:900], "truncated.*: Premature end of JPEG file"),
        (patch_frame(PLAIN, 4, b"\x0c"), "12-bit.*: Unsupported JPEG data precision 12"),
        (patch_frame(PLAIN, 5, b"\0\0"), "not identified.*: tjDecompressHeader3"),
        (PLAIN[:2] + PLAIN, "broken data stream.*: tjDecompressHeader3"),
    ],
    ids=["cut", "12-bit", "no-height", "two-beginnings"],
)
def test_a_refusal_gives_both_reasons_in_one_line(data: bytes, message: str) -> None:
    """I1: a user would not know why, or the log's line would be cut; or a refused image would count as decoded."""
    counts = DecodeCounts()
    with pytest.raises(DecodeError, match=f"^damaged image: .*{message}") as caught:
        decode_image(data, counts=counts)
    assert "\n" not in str(caught.value)
    assert (counts.decoded, counts.fallbacks) == (0, 0)


VICTIMS = [
    PLAIN,
    encode(PHOTO, "JPEG", progressive=True),
    encode(PHOTO, "JPEG", exif=exif((ORIENTATION, 3, 1, b"\6"), (0x0100, 2, 2, b"x"), (0x011A, 2, 2, b"y"))),
    encode(PHOTO.convert("CMYK"), "JPEG", exif=exif((0x0100, 2, 2, b"x"), (0x011A, 2, 2, b"y"))),
    encode(PHOTO.convert("P"), "PNG", transparency=b"\0\1\2", exif=oriented(3)),
    encode(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    encode(PHOTO, "WEBP", exif=oriented(8)),
    encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
]
SHARE = st.floats(0, 0.999)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("head"), SHARE, st.integers(0, 255)),
        st.tuples(st.just("byte"), SHARE, st.integers(0, 255)),
        st.tuples(st.just("cut"), SHARE, st.just(0)),
        st.tuples(st.just("drop"), SHARE, st.integers(1, 40)),
        st.tuples(st.just("splice"), SHARE, st.integers(0, len(VICTIMS) - 1)),
    ),
    max_size=4,
)


def damage(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for kind, share, value in changes:
        place = int(share * min(len(data), 100 if kind == "head" else len(data)))
        if kind in ("head", "byte"):
            data = data[:place] + bytes([value]) + data[place + 1 :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "drop":
            data = data[:place] + data[place + value :]
        else:
            data = data[:place] + VICTIMS[value][int(share * 200) :][:150] + data[place:]
    return data


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:2] + b"\xff\xda",
        encode(PHOTO, "PNG")[:8] + chunk(b"IHDR", bytes(4)),
        claims(20_000, 20_000, "WEBP"),
    ],
    ids=["SyntaxError", "ValueError", "DecompressionBombError"],
)
def test_whatever_pillow_raises_is_a_decode_error(data: bytes) -> None:
    """I1: an error of a kind that nobody foresaw would end a run, and name no sample."""
    with pytest.raises(DecodeError, match="damaged image: "):
        decode_image(data, max_pixels=1 << 40)


def test_broken_images_only_ever_raise_decode_error(capfd: pytest.CaptureFixture[str]) -> None:
    """I1: a damaged image would end a run with an error that names no sample, or fill its log with warnings."""

    @given(st.sampled_from(VICTIMS), CHANGES)
    @settings(max_examples=1500, deadline=None)
    def decode_broken(data: bytes, changes: list[tuple[str, float, int]]) -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                pixels = decode_image(damage(data, changes), max_pixels=1 << 16)
            except DecodeError as error:
                lines = str(error).splitlines()
            else:
                lines = ["decoded"]
                assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.dtype(np.uint8), 3, 3)
        assert len(lines) == 1
        assert not seen

    decode_broken()
    assert capfd.readouterr().err == ""  # neither Python's warnings nor those of a C library


@given(st.sampled_from([oriented(6), oriented(6, ">")]), st.lists(st.tuples(SHARE, st.integers(0, 255)), max_size=5))
@settings(max_examples=300, deadline=None)
def test_no_exif_makes_an_image_unreadable(block: bytes, changes: list[tuple[float, int]]) -> None:
    """I1: whatever a camera writes there, the pixels are good."""
    broken = bytearray(block)
    for share, value in changes:
        broken[int(share * len(broken))] = value
    pixels = decode_image(insert(PLAIN, (0xE1, bytes(broken))))
    turns = (by_pillow(encode(PHOTO, "JPEG", exif=oriented(turn))) for turn in range(1, 9))
    assert any(np.array_equal(pixels, turned) for turned in turns)
