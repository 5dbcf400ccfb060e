"""From the command line's options to a job and its destination: the one place that knows every kind."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.destination import Destination, check_destination
from pineco.data_pipeline.prepare.job import INDEXED, Job
from pineco.data_pipeline.prepare.run import Result, run
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.sources.bapps import open_bapps
from pineco.data_pipeline.prepare.sources.class_triplets import Draw, open_class_triplets
from pineco.data_pipeline.prepare.sources.image_folder import open_image_folder
from pineco.data_pipeline.prepare.sources.nights import open_nights
from pineco.data_pipeline.prepare.sources.pairs_csv import Columns, open_pairs_csv
from pineco.data_pipeline.prepare.sources.plain_images import open_plain_images
from pineco.data_pipeline.prepare.sources.things import ThingsFiles, open_things
from pineco.data_pipeline.prepare.sources.wds import LAYOUT as WDS_LAYOUT
from pineco.data_pipeline.prepare.sources.wds import open_wds_captions, open_wds_folders
from pineco.data_pipeline.prepare.sources.yfcc15m import open_yfcc15m
from pineco.data_pipeline.prepare.toy import prepare_toy

Options = argparse.Namespace


def prepare(options: Options) -> Result:
    """options: of `command.parse`. Raises InputError for a source or a destination that cannot be used."""
    source = _source(options)
    root = check_destination(options.destination, source)
    if options.kind == "toy":
        return prepare_toy(source, root, options.workers)
    job = JOBS[options.kind](source, _rules(options), options)
    return run(job, Destination(root, LAYOUTS.get(options.kind, INDEXED)), options.workers)


def _source(options: Options) -> Path:
    text = str(options.source)
    if ":/" in text and not options.source.exists():
        raise InputError("SRC must be on this machine; copy it here, nothing is fetched")
    if options.kind == "csv" and not options.source.is_file():
        raise InputError(f"{text}: no such file; SRC is the table")
    if options.kind not in ("csv", "toy"):
        if not options.source.is_dir():
            raise InputError(f"{text}: no such folder")
        if not any(options.source.iterdir()):
            raise InputError(f"{text}: an empty folder")
    return options.source.resolve()


def _rules(options: Options) -> ImageRules:
    if options.quality is not None and options.resize is None:
        raise InputError("--quality is of resized images; pass --resize with it")
    return ImageRules(verify=options.verify, resize=options.resize, quality=options.quality or 95)


def _yfcc15m(source: Path, rules: ImageRules, options: Options) -> Job:
    return open_yfcc15m(source, rules)


def _csv(source: Path, rules: ImageRules, options: Options) -> Job:
    return open_pairs_csv(source, _columns(options), rules, options.shard_size)


def _columns(options: Options) -> Columns:
    separator = {r"\t": "\t"}.get(options.csv_separator, options.csv_separator)
    if len(separator) != 1 or separator in '\r\n"':
        raise InputError(f"--csv-separator {options.csv_separator!r}: one character, such as a comma or a tab")
    return Columns(separator=separator, image=options.csv_img_key, caption=options.csv_caption_key)


def _images(source: Path, rules: ImageRules, options: Options) -> Job:
    return open_plain_images(source, rules, options.shard_size)


def _image_folder(source: Path, rules: ImageRules, options: Options) -> Job:
    return open_image_folder(source, rules, options.shard_size)


def _nights(source: Path, rules: ImageRules, options: Options) -> Job:
    return open_nights(source, rules, options.shard_size, options.workers)


def _bapps(source: Path, rules: ImageRules, options: Options) -> Job:
    return open_bapps(source, rules, options.shard_size, options.workers)


def _things(source: Path, rules: ImageRules, options: Options) -> Job:
    splits: dict[str, str] = {}
    for text in options.triplets:
        split, equals, path = text.partition("=")
        if not (split and equals and path) or split in splits:
            raise InputError(f"--triplets {text!r}: SPLIT=FILE, each split once")
        splits[split] = path
    files = ThingsFiles(triplets=splits, images=options.images, image_list=options.image_list)
    return open_things(source, files, rules, options.shard_size, options.workers)


def _class_triplets(source: Path, rules: ImageRules, options: Options) -> Job:
    draw = Draw(triplets=options.triplets, seed=options.seed, split=options.split)
    return open_class_triplets(source, draw, rules, options.shard_size, options.workers)


def _wds(source: Path, rules: ImageRules, options: Options) -> Job:
    texts = {"split": options.split, "classnames": options.classnames, "templates": options.templates}
    if options.captions is None:
        return open_wds_folders(source, rules, options.shard_size, **texts)
    if given := [name for name, value in texts.items() if value is not None]:
        raise InputError(f"--{given[0]} is of class folders; leave it out with --captions")
    return open_wds_captions(source, options.captions, _columns(options), rules, options.shard_size)


JOBS: dict[str, Callable[[Path, ImageRules, Options], Job]] = {
    "yfcc15m": _yfcc15m,
    "csv": _csv,
    "images": _images,
    "image-folder": _image_folder,
    "nights": _nights,
    "bapps": _bapps,
    "things": _things,
    "class-triplets": _class_triplets,
    "wds": _wds,
}
LAYOUTS = {"wds": WDS_LAYOUT}  # where it is not the usual one
