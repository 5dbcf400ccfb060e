"""A contact sheet of the toy world: the first train pairs with their captions, for people to look at.

python -m data_pipeline.toy_world.sheet OUT.png [--seed N]
"""

import argparse
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from data_pipeline.errors import InputError
from data_pipeline.toy_world.captions import captions
from data_pipeline.toy_world.render import render
from data_pipeline.toy_world.samples import sample_rng
from data_pipeline.toy_world.scene import sample_scene
from data_pipeline.toy_world.settings import ToyWorldSettings

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


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.toy_world.sheet", description="Draw toy samples.")
    parser.add_argument("out", type=Path, metavar="OUT.png", help="the picture to write")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the toy world (default 0)")
    options = parser.parse_args(arguments)
    try:
        contact_sheet(ToyWorldSettings(seed=options.seed)).save(options.out, "PNG")
    except (InputError, OSError) as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    print(f"contact sheet in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
