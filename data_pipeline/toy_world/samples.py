"""What one sample of each toy set is: the files of a pair, a class, a retrieval image, a dense label, a triplet.

A sample is (key, file extension -> content), as webdataset groups the members of an archive. Each is seeded by
(seed, split, index), so that it depends neither on the other samples nor on who makes it.
"""

import csv
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pineco.data_pipeline.toy_world.captions import LAYOUT_PHRASES, NUMBERS, captions
from pineco.data_pipeline.toy_world.colours import COLOURS
from pineco.data_pipeline.toy_world.layouts import LAYOUTS
from pineco.data_pipeline.toy_world.render import render
from pineco.data_pipeline.toy_world.scene import SHAPES, TEXTURES, Scene, sample_scene
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings
from pineco.data_pipeline.toy_world.similarity import vary, vote

Sample = tuple[str, dict[str, bytes]]  # key, file extension -> content
Maker = Callable[[ToyWorldSettings, str, int], Sample]  # of sample `index` of a split

TRIPLET_COLUMNS = (
    "id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "prompt", "is_imagenet",
    "split",
)  # fmt: skip
_TRIPLET_SPLITS = ("train",) * 8 + ("val", "test")


@dataclass(frozen=True)
class ZeroShotSet:
    """A classification set: what its classes are called and which scenes show a class."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    constraints: Callable[[int], dict[str, Any]]  # class index -> arguments of sample_scene


ZERO_SHOT_SETS: dict[str, ZeroShotSet] = {
    "toy_shapes": ZeroShotSet(
        SHAPES,
        ("one {c}", "a large {c}", "a picture of a large {c}", "one {c} on a plain background"),
        lambda c: {"shape": SHAPES[c], "count": 1, "size": "large"},
    ),
    "toy_objects": ZeroShotSet(
        tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
        ("one {c}", "a large {c}", "a picture of a large {c}", "one {c} on a plain background"),
        lambda c: {
            "colour": COLOURS[c // len(SHAPES)], "shape": SHAPES[c % len(SHAPES)],
            "count": 1, "size": "large",
        },
    ),
    "toy_counts": ZeroShotSet(
        ("one shape", *(f"{number} shapes" for number in NUMBERS[1:6])),
        ("{c}", "a picture of {c}", "an image of {c}", "{c} on a plain background"),
        lambda c: {"count": c + 1},
    ),
    "toy_textures": ZeroShotSet(
        TEXTURES,
        ("one {c} shape", "a large {c} shape", "a picture of a large {c} shape"),
        lambda c: {"texture": TEXTURES[c], "count": 1, "size": "large"},
    ),
    "toy_layouts": ZeroShotSet(
        tuple(LAYOUT_PHRASES[layout][0] for layout in LAYOUTS),
        ("one shape {c}", "some shapes {c}", "a picture of some shapes {c}"),
        lambda c: {"layout": LAYOUTS[c]},
    ),
}  # fmt: skip


def sample_rng(settings: ToyWorldSettings, split: str, index: int) -> np.random.Generator:
    """The random numbers of one sample, independent of every other sample."""
    return np.random.Generator(np.random.Philox([settings.seed, zlib.crc32(split.encode()) << 32 | index]))


def _jpeg(image: NDArray[np.uint8], settings: ToyWorldSettings) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=settings.jpeg_quality))


def _png(pixels: NDArray[Any]) -> bytes:
    from PIL import Image  # a sixth of this module's import time, and only the dense sets need it

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def _shard_key(index: int, settings: ToyWorldSettings) -> str:
    """img2dataset's nine digits: five of the shard, four of the place in it."""
    return f"{index // settings.shard_size:05d}{index % settings.shard_size:04d}"


def pair(settings: ToyWorldSettings, split: str, index: int) -> Sample:
    """Image, five captions (the first also alone) and the scene behind them, as img2dataset names them."""
    rng = sample_rng(settings, split, index)
    scene, key = sample_scene(rng), _shard_key(index, settings)
    texts = captions(scene, rng)
    record: dict[str, Any] = {"key": key, "caption": texts[0], "captions": texts}
    record |= {"width": settings.image_size, "height": settings.image_size, "scene": asdict(scene)}
    image = render(scene, settings.image_size).image
    return key, {"jpg": _jpeg(image, settings), "json": _json(record), "txt": texts[0].encode()}


def zero_shot(settings: ToyWorldSettings, split: str, index: int) -> Sample:
    """Image and class index; the classes take turns, so that the first N are balanced."""
    kind = ZERO_SHOT_SETS[PurePosixPath(split).name]
    label = index % len(kind.classnames)
    scene = sample_scene(sample_rng(settings, split, index), companions=False, **kind.constraints(label))
    image = render(scene, settings.image_size).image
    return f"s{index:07d}", {"cls": str(label).encode(), "jpg": _jpeg(image, settings)}


def retrieval(settings: ToyWorldSettings, split: str, index: int) -> Sample:
    """Image and five captions, which say nearly everything, so that few other images fit them."""
    rng = sample_rng(settings, split, index)
    scene = sample_scene(rng)
    texts = captions(scene, rng, thoroughness=0.95)
    image = render(scene, settings.image_size).image
    return f"s{index:07d}", {"jpg": _jpeg(image, settings), "txt": "\n".join(texts).encode()}


def dense(settings: ToyWorldSettings, split: str, index: int) -> Sample:
    """Image, class mask (8 bits), depth in millimetres (16 bits) and the number of each shape."""
    scene = sample_scene(sample_rng(settings, split, index))
    image, mask, depth = render(scene, settings.image_size)
    counts = {shape: scene.counts().get(shape, 0) for shape in SHAPES}
    return _shard_key(index, settings), {
        "depth.png": _png(depth), "jpg": _jpeg(image, settings),
        "json": _json({"counts": counts, "total": len(scene.objects)}), "seg.png": _png(mask),
    }  # fmt: skip


def triplet_scenes(settings: ToyWorldSettings, index: int) -> tuple[Scene, Scene, Scene]:
    """The scenes behind row `index` of triplets/data.csv: reference, left, right."""
    return _triplet_scenes(sample_rng(settings, "triplets", index))


def _triplet_scenes(rng: np.random.Generator) -> tuple[Scene, Scene, Scene]:
    """Reference, left and right: two variations of one scene."""
    reference = sample_scene(rng)
    return reference, vary(reference, rng), vary(reference, rng)


def csv_line(cells: tuple[Any, ...]) -> bytes:
    """One line of triplets/data.csv."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def triplet(settings: ToyWorldSettings, split: str, index: int) -> Sample:
    """The three images ("ref.jpg", "left.jpg", "right.jpg") and their line of data.csv ("csv")."""
    rng = sample_rng(settings, split, index)
    scenes = _triplet_scenes(rng)
    voters = 6 + int(rng.random() * 5)
    right = vote(*scenes, voters, rng) / voters
    key, sides = f"{index:06d}", ("ref", "left", "right")
    row = (
        index, 1 - right, right, voters, *(f"{side}/{key}.jpg" for side in sides),
        scenes[0].objects[0].shape, False, _TRIPLET_SPLITS[index % 10],
    )  # fmt: skip
    files = {
        f"{side}.jpg": _jpeg(render(scene, settings.image_size).image, settings)
        for side, scene in zip(sides, scenes, strict=True)
    }
    return key, files | {"csv": csv_line(row)}
