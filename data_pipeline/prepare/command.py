"""pineco data prepare KIND SRC DST: what people download becomes indexed webdataset shards, here or on S3.

Exit codes: 0 done, 2 bad input (one line says what and how to mend it), 130 interrupted; the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pineco.data_pipeline.files import user_path, user_place

_BAD_INPUT = 2  # as for every command; `launch.exits` has the others
_SHARD_SIZE = {
    "csv": 10_000, "images": 10_000, "image-folder": 10_000, "nights": 1000, "bapps": 1000, "things": 1000,
    "class-triplets": 1000, "wds": 1000,
}  # fmt: skip
_KINDS = {
    "yfcc15m": "img2dataset's output (tars, or folders of files): one tar or folder becomes one shard",
    "csv": "open_clip's CSV of image paths and captions; SRC is the file",
    "images": "any folder of images, such as COCO's: all that are in it and below, without captions or labels",
    "image-folder": "SRC/CLASS/NAME.jpg: images with number and name of their class, and classnames.txt",
    "nights": "NIGHTS: data.csv and the folders that it names",
    "bapps": "BAPPS' folder 2afc: SPLIT/SUBSET/{ref,p0,p1,judge}",
    "things": "THINGS' odd-one-out triplets: text files of image numbers, and the images in that order",
    "class-triplets": "a control that nobody judged: two images of one class and one of another, drawn from "
    "SRC/CLASS/NAME.jpg, or from shards with KEY.cls, such as an evaluation set",
    "wds": "an evaluation set as CLIP_benchmark lays it out, of SRC/CLASS/NAME.jpg or of images with captions",
    "toy": "the toy world, made in SRC unless it is there, copied and indexed",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"pineco: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(_BAD_INPUT)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="pineco data prepare",
        description="Write what people download as indexed webdataset shards, to a folder or to s3://bucket/prefix. "
        "A call that was stopped goes on where it was.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, parser_class=_Parser)
    for kind, text in _KINDS.items():
        one = kinds.add_parser(kind, help=text, description=text)
        one.add_argument("source", metavar="SRC", type=user_path)
        one.add_argument("destination", metavar="DST", type=user_place, help="a folder, or s3://bucket/prefix")
        one.add_argument("--workers", type=_whole(1), default=_cores(), metavar="N", help="processes (default: cores)")
        if kind != "toy":
            _add_image_options(one, resize=kind != "wds")
        if kind in _SHARD_SIZE:
            size = _SHARD_SIZE[kind]
            one.add_argument("--shard-size", type=_whole(1, 10_000), default=size, metavar="N", help=_SIZE % size)
    _add_csv_options(kinds.choices["csv"])
    _add_things_options(kinds.choices["things"])
    _add_class_triplets_options(kinds.choices["class-triplets"])
    _add_wds_options(kinds.choices["wds"])
    return parser.parse_args(arguments)


_SIZE = "samples of a shard (default: %d); a shard with rejected samples is shorter"


def _add_image_options(parser: argparse.ArgumentParser, *, resize: bool) -> None:
    """resize: whether images may lose their bytes; an evaluation set is what it is."""
    parser.add_argument(
        "--verify", choices=("decode", "header", "none"), default="decode",
        help="what an image must pass: decode all of it (default), its size and format, or its first bytes",
    )  # fmt: skip
    if not resize:
        parser.set_defaults(resize=None, quality=None)
        return
    parser.add_argument(
        "--resize", type=_whole(1), metavar="N",
        help="shrink images whose shorter side is larger to N pixels, as JPEG; others keep their bytes",
    )  # fmt: skip
    parser.add_argument("--quality", type=_whole(1, 100), metavar="Q", help="of these JPEGs (default: 95)")


def _add_csv_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv-separator", default="\t", metavar="C", help="default: tab")
    parser.add_argument("--csv-img-key", default="filepath", metavar="NAME", help="column of paths (default: filepath)")
    parser.add_argument("--csv-caption-key", default="title", metavar="NAME", help="of captions (default: title)")


def _add_things_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--triplets", action="append", default=[], metavar="SPLIT=FILE",
        help="a file of SRC; repeat for more (default: train=trainset.txt, val=validationset.txt)",
    )  # fmt: skip
    parser.add_argument("--images", default="images", metavar="FOLDER", help="of SRC; image i is its i-th by path")
    parser.add_argument("--image-list", metavar="FILE", help="of SRC; line i names image i, instead")


def _add_class_triplets_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--triplets", type=_whole(10), default=20_019, metavar="N",
        help="how many, 8 in 10 of them for train, 1 each for val and test (default: %(default)d, as NIGHTS)",
    )  # fmt: skip
    parser.add_argument("--seed", type=_whole(0, 2**63), default=0, metavar="N", help="of all draws (default: 0)")
    parser.add_argument("--split", metavar="NAME", help="the folder of SRC that holds class folders or shards")


def _add_wds_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", metavar="NAME", help="the folder of SRC that holds the class folders, such as test")
    parser.add_argument(
        "--classnames", type=user_path, metavar="FILE",
        help="one name a line, in the order of sorted folders, or *.json of {folder: name} (default: the folders')",
    )  # fmt: skip
    parser.add_argument(
        "--templates", type=user_path, metavar="FILE", help="prompts, one a line, with {c} for the name"
    )
    parser.add_argument(
        "--captions", type=user_path, metavar="FILE",
        help="table of paths below SRC and captions, one a row, for a retrieval set; read as kind csv reads it",
    )  # fmt: skip
    _add_csv_options(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        result = _prepare(options)
    except OSError as error:
        error.filename = error.filename or options.destination  # a write to a full disk names no file
        raise
    print(describe(options.kind, options.destination, result))
    return 0


def _prepare(options: argparse.Namespace) -> Mapping[str, Any]:
    from pineco.data_pipeline.prepare.kinds import prepare  # imports numpy and Pillow, which --help does not need

    return prepare(options)


def describe(kind: str, destination: str, result: Mapping[str, Any]) -> str:
    """What was made, and a line for every reason of rejection."""
    size = f"{result['bytes'] / 1e6:,.1f} MB"
    if "files" in result:
        return f"{kind}: {result['files']:,} files ({size}) in {destination}"
    shards = f"{len(result['shards']):,} shard{'' if len(result['shards']) == 1 else 's'}"
    lines = [f"{kind}: {result['samples']:,} samples in {shards} ({size}) in {destination}"]
    lines += [
        f"  rejected {found['items']:,}: {reason}, e.g. {', '.join(ascii(path)[1:-1] for path in found['examples'])}"
        for reason, found in result["rejected"].items()
    ]
    return "\n".join(lines)


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{value} is not {f'from {low} to {high}' if high else f'{low} or more'}")
        return value

    return number


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
