"""What an image must pass, and what becomes of one that is to be smaller."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from pineco.data_pipeline.prepare.outcome import RejectError
from pineco.data_pipeline.prepare.samples.images import UNREADABLE, ImageRules, check_image
from tests.support.prepared import photo
from tests.support.shards import encode, natural_image

IMAGE = Image.fromarray(natural_image(60, 90, seed=1))
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
BOMB = encode(Image.new("L", (8200, 8200)), "PNG")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("verify", ["decode", "header", "none"])
def test_a_good_image_keeps_its_bytes(kind: str, verify: str) -> None:
    """Images would be encoded a second time, or good ones rejected."""
    data = encode(IMAGE, kind)
    checked = check_image(data, ImageRules(verify=verify))  # type: ignore[arg-type]
    assert (checked.extension, checked.data, checked.size) == (FORMATS[kind], data, None)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_each_check_finds(kind: str) -> None:
    """`--verify header` would pass what is no image, or `decode` a cut one."""
    data = encode(IMAGE, kind)
    cut, head = data[: len(data) // 2], data[:20]
    with pytest.raises(RejectError, match=UNREADABLE):
        check_image(cut, ImageRules())
    with pytest.raises(RejectError, match=UNREADABLE):
        check_image(head, ImageRules(verify="header"))
    assert check_image(head, ImageRules(verify="none")).data == head


@pytest.mark.parametrize("rules", [ImageRules(), ImageRules(verify="header"), ImageRules(resize=8)])
def test_an_image_of_too_many_pixels_is_rejected(rules: ImageRules) -> None:
    """A bomb would take the worker's memory here, or the trainer's later."""
    with pytest.raises(RejectError, match="limit"):
        check_image(BOMB, rules)


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(90, 60, (30, 20)), (61, 90, (20, 30)), (21, 400, (20, 381))]
)
def test_the_shorter_side_shrinks_and_the_ratio_stays(width: int, height: int, expected: tuple[int, int]) -> None:
    """Images would be squashed, or smaller than the crop that training takes."""
    checked = check_image(encode(IMAGE.resize((width, height)), "PNG"), ImageRules(resize=20))
    assert (checked.extension, checked.size) == ("jpg", expected)
    assert Image.open(io.BytesIO(checked.data)).size == expected


def test_a_small_image_is_not_touched() -> None:
    """Images would grow, or lose quality for nothing."""
    data = photo(0, 30, 20)
    assert check_image(data, ImageRules(resize=20)).data == data


def test_a_resized_image_is_what_pillow_makes_of_it() -> None:
    """The filter or the quality would be other ones than what is said."""
    expected = encode(IMAGE.resize((45, 30), Image.Resampling.BICUBIC), "JPEG", quality=95)
    assert check_image(encode(IMAGE, "PNG"), ImageRules(resize=30)).data == expected
    rougher = encode(IMAGE.resize((45, 30), Image.Resampling.BICUBIC), "JPEG", quality=30)
    assert check_image(encode(IMAGE, "PNG"), ImageRules(resize=30, quality=30)).data == rougher


def test_a_resized_image_stands_upright() -> None:
    """Its EXIF is gone, so that a photo taken sideways would lie on its side for ever."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(IMAGE, "JPEG", exif=exif)
    checked = check_image(data, ImageRules(resize=30))
    assert checked.size == (30, 45)
    turned = Image.open(io.BytesIO(data)).convert("RGB").transpose(Image.Transpose.ROTATE_270)
    assert checked.data == check_image(encode(turned, "PNG"), ImageRules(resize=30)).data


def test_sixteen_bits_and_transparency_become_plain_jpeg() -> None:
    """An image that training decodes could not be resized."""
    deep = Image.fromarray((np.arange(1600).reshape(40, 40) * 40).astype(np.uint16))
    for image in (deep, IMAGE.convert("RGBA"), IMAGE.convert("CMYK"), IMAGE.convert("P")):
        kind = "JPEG" if image.mode == "CMYK" else "PNG"
        assert Image.open(io.BytesIO(check_image(encode(image, kind), ImageRules(resize=10)).data)).mode == "RGB"


def test_a_side_that_jpeg_cannot_hold_is_rejected() -> None:
    """One absurd image would end the preparation with a traceback."""
    with pytest.raises(RejectError, match=UNREADABLE):
        check_image(encode(Image.new("L", (140_000, 2)), "PNG"), ImageRules(resize=1))
