"""pineco data toy DEST [--seed N --train-pairs N ...] [--sheet OUT.png]: write the toy world, and a picture of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, fields

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path
from pineco.data_pipeline.prepare.toy import make_toy_world
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings
from pineco.data_pipeline.toy_world.sheet import contact_sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the world, or find it there; returns the exit code."""
    options = _parser().parse_args(arguments)
    settings = ToyWorldSettings(**{f.name: getattr(options, f.name) for f in fields(ToyWorldSettings)})
    if options.sheet is not None and not options.sheet.parent.is_dir():
        raise InputError(f"--sheet {options.sheet}: there is no folder {options.sheet.parent}; create it first")
    root = make_toy_world(options.dest, settings, workers=options.workers)
    counts = {name: value for name, value in asdict(settings).items() if name not in ("seed", "jpeg_quality")}
    print(f"toy world in {root}: {', '.join(f'{name}={value}' for name, value in counts.items())}")
    if options.sheet is not None:
        contact_sheet(settings).save(options.sheet, "PNG")
        print(f"contact sheet in {options.sheet}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pineco data toy", description="Write the toy world.")
    parser.add_argument("dest", type=user_path, metavar="DEST", help="an empty or new folder")
    for item in fields(ToyWorldSettings):
        flag = "--" + item.name.replace("_", "-")
        text = f"{item.metadata['help']} (default {item.default})"
        parser.add_argument(flag, type=int, default=item.default, metavar="N", help=text.replace("%", "%%"))
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--sheet", type=user_path, metavar="OUT.png", help="also draw the first pairs with captions")
    return parser
