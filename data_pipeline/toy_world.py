"""The toy world: image-text pairs, triplets, zero-shot sets and dense labels, rendered from a seed.

    python -m data_pipeline.toy_world DEST [--seed N --train-pairs N ...] [--contact-sheet out.png]

The files have the layouts of img2dataset, NIGHTS and CLIP_benchmark, so whatever reads the toy world reads
the real sets. A world is a pure function of its settings: each sample is seeded by (seed, split, index), so
the bytes do not depend on the number of workers. `world.json` is written last; without it there is no world.

Tar files come from `tarfile`, as do those of webdataset's writer: importing webdataset imports torch, which
takes six seconds, and the whole default world takes about ten.
"""

import argparse
import csv
import fcntl
import hashlib
import io
import json
import math
import multiprocessing
import os
import shutil
import sys
import tarfile
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.toy_captions import LAYOUT_PHRASES, NUMBERS, captions, vary, vote
from data_pipeline.toy_scene import COLOURS, LAYOUTS, SHAPES, TEXTURES, Scene, render, sample_scene

if TYPE_CHECKING:
    from PIL import Image

SCHEMA = 1  # raise it with any change of the bytes, so that an old world is not taken for a new one
_PARTS = ("pairs", "triplets", "wds", "dense")
_MARKER = ".partial"  # stands in a folder while its world is being written
_WDS_SHARD = 500  # CLIP_benchmark's limit, whatever shard_size says
_TRIPLET_COLUMNS = (
    "id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "prompt", "is_imagenet",
    "split",
)  # fmt: skip
_TRIPLET_SPLITS = ("train",) * 8 + ("val", "test")

Sample = dict[str, bytes]  # file extension -> content


def _setting(default: int, low: int, high: int, text: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "help": text})


@dataclass(frozen=True, kw_only=True)
class ToyWorldSettings:
    """Everything that decides the bytes of a toy world."""

    seed: int = _setting(0, 0, 2**63 - 1, "another seed gives another world")
    image_size: int = _setting(64, 16, 1024, "side of every image, in pixels")
    train_pairs: int = _setting(8000, 1, 10**8, "image-text pairs to train on")
    val_pairs: int = _setting(500, 1, 10**8, "image-text pairs to validate on")
    triplets: int = _setting(4000, 10, 10**8, "triplets, of which 80 % train, 10 % val, 10 % test")
    test_images: int = _setting(960, 1, 10**6, "images of each zero-shot set")
    retrieval_images: int = _setting(500, 1, 10**6, "images of the retrieval set")
    dense_train: int = _setting(1000, 1, 10**7, "images with mask, depth and counts to train on")
    dense_test: int = _setting(250, 1, 10**7, "images with mask, depth and counts to test on")
    shard_size: int = _setting(500, 1, 10_000, "samples in a tar file")
    jpeg_quality: int = _setting(90, 1, 100, "quality of every JPEG")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            if type(value) is not int or not low <= value <= high:
                raise InputError(
                    f"toy world: {item.name} must be an integer from {low} to {high}, not {value!r}"
                )


TINY = ToyWorldSettings(
    train_pairs=128, val_pairs=32, triplets=60, test_images=96, retrieval_images=32, dense_train=32,
    dense_test=16, shard_size=64,
)  # fmt: skip
"""A world for tests: about 900 images, written in about a second."""


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
    from PIL import Image  # a sixth of this module's import time, and not needed to read the settings

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def _shard_key(index: int, settings: ToyWorldSettings) -> str:
    """img2dataset's nine digits: five of the shard, four of the place in it."""
    return f"{index // settings.shard_size:05d}{index % settings.shard_size:04d}"


def _pair(settings: ToyWorldSettings, split: str, index: int) -> tuple[str, Sample]:
    rng = sample_rng(settings, split, index)
    scene, key = sample_scene(rng), _shard_key(index, settings)
    texts = captions(scene, rng)
    record: dict[str, Any] = {"key": key, "caption": texts[0], "captions": texts}
    record |= {"width": settings.image_size, "height": settings.image_size, "scene": asdict(scene)}
    image = render(scene, settings.image_size).image
    return key, {"jpg": _jpeg(image, settings), "json": _json(record), "txt": texts[0].encode()}


def _zero_shot(settings: ToyWorldSettings, split: str, index: int) -> tuple[str, Sample]:
    kind = ZERO_SHOT_SETS[Path(split).name]
    label = index % len(kind.classnames)
    scene = sample_scene(sample_rng(settings, split, index), companions=False, **kind.constraints(label))
    image = render(scene, settings.image_size).image
    return f"s{index:07d}", {"cls": str(label).encode(), "jpg": _jpeg(image, settings)}


def _retrieval(settings: ToyWorldSettings, split: str, index: int) -> tuple[str, Sample]:
    """The captions say nearly everything, so that few other images fit them."""
    rng = sample_rng(settings, split, index)
    scene = sample_scene(rng)
    texts = captions(scene, rng, thoroughness=0.95)
    image = render(scene, settings.image_size).image
    return f"s{index:07d}", {"jpg": _jpeg(image, settings), "txt": "\n".join(texts).encode()}


def _dense(settings: ToyWorldSettings, split: str, index: int) -> tuple[str, Sample]:
    scene = sample_scene(sample_rng(settings, split, index))
    image, mask, depth = render(scene, settings.image_size)
    counts = {shape: scene.counts().get(shape, 0) for shape in SHAPES}
    return _shard_key(index, settings), {
        "depth.png": _png(depth), "jpg": _jpeg(image, settings),
        "json": _json({"counts": counts, "total": len(scene.objects)}), "seg.png": _png(mask),
    }  # fmt: skip


def _triplet(settings: ToyWorldSettings, index: int) -> tuple[dict[str, bytes], tuple[Any, ...]]:
    """The three images by path and the row of data.csv."""
    rng = sample_rng(settings, "triplets", index)
    scenes = _triplet_scenes(rng)
    voters = 6 + int(rng.random() * 5)
    right = vote(*scenes, voters, rng) / voters
    paths = [f"{side}/{index:06d}.jpg" for side in ("ref", "left", "right")]
    images = [_jpeg(render(scene, settings.image_size).image, settings) for scene in scenes]
    split = _TRIPLET_SPLITS[index % 10]
    row = (index, 1 - right, right, voters, *paths, scenes[0].objects[0].shape, False, split)
    return dict(zip(paths, images, strict=True)), row


def _triplet_scenes(rng: np.random.Generator) -> tuple[Scene, Scene, Scene]:
    """Reference, left and right: two variations of one scene."""
    reference = sample_scene(rng)
    return reference, vary(reference, rng), vary(reference, rng)


def triplet_scenes(settings: ToyWorldSettings, index: int) -> tuple[Scene, Scene, Scene]:
    """The scenes behind row `index` of triplets/data.csv: reference, left, right."""
    return _triplet_scenes(sample_rng(settings, "triplets", index))


class Job(NamedTuple):
    """One file to write (of triplets: one block of files), the unit that goes to a worker."""

    split: str  # also the folder
    path: str  # of the tar file
    first: int
    samples: int
    make: Callable[[ToyWorldSettings, str, int], tuple[str, Sample]] | None  # None: triplets


class Written(NamedTuple):
    """What a job left behind."""

    files: dict[str, tuple[int, str]]  # path -> bytes, sha256
    rows: list[tuple[Any, ...]]  # of triplets/data.csv
    images: int


def _jobs(settings: ToyWorldSettings) -> Iterator[Job]:
    def blocks(split: str, total: int, size: int, name: str, make: Any) -> Iterator[Job]:
        for shard, first in enumerate(range(0, total, size)):
            yield Job(split, f"{split}/{name.format(shard)}", first, min(size, total - first), make)

    size = settings.shard_size
    yield from blocks("triplets", settings.triplets, 250, "", None)
    yield from blocks("pairs/train", settings.train_pairs, size, "{:05d}.tar", _pair)
    yield from blocks("pairs/val", settings.val_pairs, size, "{:05d}.tar", _pair)
    yield from blocks("dense/train", settings.dense_train, size, "{:05d}.tar", _dense)
    yield from blocks("dense/test", settings.dense_test, size, "{:05d}.tar", _dense)
    for name in ZERO_SHOT_SETS:
        yield from blocks(f"wds/{name}", settings.test_images, _WDS_SHARD, "test/{}.tar", _zero_shot)
    yield from blocks("wds/toy_retrieval", settings.retrieval_images, _WDS_SHARD, "test/{}.tar", _retrieval)


def _tar(samples: Iterable[tuple[str, Sample]]) -> bytes:
    """A plain USTAR archive whose bytes depend on nothing but the samples."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, sample in samples:
            for extension, content in sample.items():
                info = tarfile.TarInfo(f"{key}.{extension}")  # mtime, uid and gid are 0 unless set
                info.size, info.mode = len(content), 0o444
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _write(root: Path, files: dict[str, bytes]) -> dict[str, tuple[int, str]]:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items()}


def _do(root: Path, settings: ToyWorldSettings, job: Job) -> Written:
    """Render and write one job; runs in a worker."""
    indices = range(job.first, job.first + job.samples)
    if job.make is not None:
        tar = _tar(job.make(settings, job.split, index) for index in indices)
        return Written(_write(root, {job.path: tar}), [], job.samples)
    files: dict[str, bytes] = {}
    rows = []
    for index in indices:
        images, row = _triplet(settings, index)
        files |= {f"{job.split}/{path}": content for path, content in images.items()}
        rows.append(row)
    return Written(_write(root, files), rows, len(files))


def _texts(settings: ToyWorldSettings, rows: list[tuple[Any, ...]]) -> dict[str, bytes]:
    """The small text files: names, templates, data.csv."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([_TRIPLET_COLUMNS, *rows])
    texts = {"triplets/data.csv": table.getvalue(), "dense/classes.txt": "\n".join(("background", *SHAPES))}
    for name, kind in ZERO_SHOT_SETS.items():
        texts[f"wds/{name}/test/nshards.txt"] = str(math.ceil(settings.test_images / _WDS_SHARD))
        texts[f"wds/{name}/classnames.txt"] = "\n".join(kind.classnames)
        texts[f"wds/{name}/zeroshot_classification_templates.txt"] = "\n".join(kind.templates)
    texts["wds/toy_retrieval/test/nshards.txt"] = str(math.ceil(settings.retrieval_images / _WDS_SHARD))
    texts["wds/toy_retrieval/dataset_type.txt"] = "retrieval"
    return {path: text.encode() for path, text in texts.items()}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar for people, nothing for log files."""
    if not sys.stderr.isatty():
        yield lambda images: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("toy world", total=total)
        yield lambda images: bar.advance(task, images)


def _generate(root: Path, settings: ToyWorldSettings, workers: int) -> None:
    jobs = list(_jobs(settings))
    do = partial(_do, root, settings)
    files: dict[str, tuple[int, str]] = {}
    rows: list[tuple[Any, ...]] = []
    # Forked workers start at once, and also where __main__ cannot be imported again (notebooks, stdin).
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    total = sum(job.samples * (1 if job.make else 3) for job in jobs)
    with ProcessPoolExecutor(min(workers, len(jobs)), context) as pool, _progress(total) as advance:
        for written in map(do, jobs) if workers == 1 else pool.map(do, jobs):
            files |= written.files
            rows += written.rows
            advance(written.images)
    files |= _write(root, _texts(settings, rows))
    record = {"schema": SCHEMA, "settings": asdict(settings), "files": dict(sorted(files.items()))}
    draft = root / f"{_MARKER}.json"
    draft.write_text(json.dumps(record, indent=1))
    draft.replace(root / "world.json")


def _is_complete(root: Path, settings: ToyWorldSettings) -> bool:
    """Whether this very world is there; another world or a damaged one is an error."""
    if not (root / "world.json").exists():
        return False
    mend = "delete that folder or choose another one"
    try:
        world = json.loads((root / "world.json").read_bytes())
        schema, there, files = world["schema"], dict(world["settings"]), dict(world["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{root}/world.json is not the record of a toy world: {mend}") from error
    if schema != SCHEMA:
        raise InputError(f"{root} was written by version {schema} of the toy world, this is {SCHEMA}: {mend}")
    for name, value in asdict(settings).items():
        if there.get(name) != value:
            raise InputError(f"{root} holds a toy world with {name}={there.get(name)}, not {value}: {mend}")
    for path, (size, _) in files.items():
        if not (root / path).is_file() or (root / path).stat().st_size != size:
            raise InputError(f"{root}/{path} is missing or was changed: {mend}")
    return True


def _claim(root: Path) -> None:
    """Make root an empty folder of ours; clear away what an interrupted generation left, and nothing else."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {root}: {error.strerror}") from error
    found = {path.name for path in root.iterdir()}
    ours = {*_PARTS, _MARKER, f"{_MARKER}.json"} if _MARKER in found else set()
    foreign = sorted(found - ours)
    if foreign and not (root / "world.json").exists():  # another process may have finished it just now
        raise InputError(f"{root} holds {foreign[0]!r} and no toy world: choose an empty or a new folder")


def make_toy_world(root: Path, settings: ToyWorldSettings, *, workers: int | None = None) -> Path:
    """Write the toy world of these settings into root, or find it there; returns root.

    Several processes may ask for the same root at once: one writes, the others wait for it. An interrupted
    generation starts over. workers: processes to render with, by default one per core; they change no byte.
    """
    root = Path(root)
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise InputError(f"toy world: workers must be at least 1, not {workers}")
    if _is_complete(root, settings):
        return root
    _claim(root)
    with (root / _MARKER).open("a") as marker:
        fcntl.lockf(marker, fcntl.LOCK_EX)  # unlike flock, forked workers that outlive us do not hold it
        if not _is_complete(root, settings):
            for part in _PARTS:
                shutil.rmtree(root / part, ignore_errors=True)
            _generate(root, settings, workers)
        (root / _MARKER).unlink(missing_ok=True)
    return root


def contact_sheet(settings: ToyWorldSettings, *, columns: int = 4, rows: int = 4) -> "Image.Image":
    """The first train pairs, enlarged, each with three of its captions, for people to look at."""
    from PIL import Image, ImageDraw

    side, text = 192, 108
    sheet = Image.new("RGB", (columns * (side + 48), rows * (side + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for index in range(columns * rows):
        rng = sample_rng(settings, "pairs/train", index)
        scene = sample_scene(rng)
        x, y = index % columns * (side + 48), index // columns * (side + text)
        picture = Image.fromarray(render(scene, settings.image_size).image)
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x + 8, y + 8))
        lines = [line for said in captions(scene, rng)[:3] for line in textwrap.wrap("- " + said, 38)]
        draw.multiline_text(
            (x + 8, y + side + 10), "\n".join(lines[:8]), fill="black", font_size=10, spacing=2
        )
    return sheet


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.toy_world", description="Write the toy world."
    )
    parser.add_argument("dest", nargs="?", type=Path, help="an empty or new folder")
    for item in fields(ToyWorldSettings):
        flag, text = "--" + item.name.replace("_", "-"), f"{item.metadata['help']} (default {item.default})"
        parser.add_argument(flag, type=int, default=item.default, metavar="N", help=text.replace("%", "%%"))
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--contact-sheet", type=Path, metavar="PNG", help="draw samples with captions into this file"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.dest is None and options.contact_sheet is None:
        parser.error("say where to write: DEST, --contact-sheet or both")
    try:
        settings = ToyWorldSettings(**{f.name: getattr(options, f.name) for f in fields(ToyWorldSettings)})
        if options.contact_sheet is not None:
            contact_sheet(settings).save(options.contact_sheet)
            print(f"contact sheet in {options.contact_sheet}")
        if options.dest is not None:
            root = make_toy_world(options.dest, settings, workers=options.workers)
            counts = {
                name: value
                for name, value in asdict(settings).items()
                if name not in ("seed", "jpeg_quality")
            }
            print(f"toy world in {root}: {', '.join(f'{name}={value}' for name, value in counts.items())}")
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
