"""pineco data index ROOT"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_place
from pineco.data_pipeline.index.build import DamagedShardsError, build_index, parse_part
from pineco.data_pipeline.index.check import check_index
from pineco.data_pipeline.index.manifest import MANIFEST, Manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    part = None if options.part is None else parse_part(options.part)
    run = check_index if options.check else build_index
    try:
        manifest = run(options.root, options.out, options.workers, part=part, show=True)
    except DamagedShardsError as error:
        raise InputError("\n".join([*error.lines, error.summary])) from None  # a line per shard, not the first alone
    print(_summary(manifest, time.monotonic() - began, options))
    return 0


def _summary(manifest: Manifest, seconds: float, options: argparse.Namespace) -> str:
    """What there is, in one line; before it the shards without a sample, in another."""
    shards = manifest.shards
    empty = [shard.name for shard in shards if not shard.samples]
    held = f"{len(shards):,} shards, {manifest.samples:,} samples, {sum(s.ignored for s in shards):,} members ignored"
    work = f"{held}, {manifest.shard_bytes / 1e9:.2f} GB, {seconds:.1f} s"
    place = f"{(options.out or options.root).rstrip('/')}/{MANIFEST}"
    if options.check:
        last = f"as indexed: {work}: {place}"
    elif options.part:
        last = f"part {options.part} indexed: {work}; when all parts are, run this without --part"
    else:
        last = f"indexed: {work}: {place}"
    return "\n".join([*([f"{len(empty):,} shards without a sample: {' '.join(empty)}"] if empty else []), last])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pineco data index",
        description="Index webdataset shards: where every member lies, and its crc32. A second call continues.",
    )
    parser.add_argument("root", metavar="ROOT", type=user_place, help="a folder of *.tar, or s3://bucket/prefix")
    parser.add_argument(
        "--out", metavar="DIR", type=user_place, help="folder or s3://bucket/prefix of the index (default: ROOT)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: as many as are worth it)")
    parser.add_argument("--part", metavar="K/N", help="only every Nth shard, from the Kth on, and no manifest")
    parser.add_argument("--check", action="store_true", help="read every shard again and compare; writes nothing")
    return parser
