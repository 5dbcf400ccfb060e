"""A contact sheet of the toy world: the first train pairs with their captions, for people to look at."""

import textwrap

from PIL import Image, ImageDraw

from pineco.data_pipeline.toy_world.captions import captions
from pineco.data_pipeline.toy_world.render import render
from pineco.data_pipeline.toy_world.samples import sample_rng
from pineco.data_pipeline.toy_world.scene import sample_scene
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings

_SIDE, _MARGIN, _TEXT = 192, 48, 108  # pixels: an enlarged picture, the gap beside it, the captions below


def contact_sheet(settings: ToyWorldSettings, *, columns: int = 4, rows: int = 4) -> Image.Image:
    """The first pairs of pairs/train, enlarged, each with three of its captions."""
    width, height = _SIDE + _MARGIN, _SIDE + _TEXT
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index in range(columns * rows):
        rng = sample_rng(settings, "pairs/train", index)
        scene = sample_scene(rng)
        x, y = index % columns * width + 8, index // columns * height + 8
        picture = Image.fromarray(render(scene, settings.image_size).image)
        sheet.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x, y))
        lines = [line for said in captions(scene, rng)[:3] for line in textwrap.wrap("- " + said, 38)]
        draw.multiline_text((x, y + _SIDE + 2), "\n".join(lines[:8]), fill="black", font_size=10, spacing=2)
    return sheet
