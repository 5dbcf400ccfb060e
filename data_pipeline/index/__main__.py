"""python -m data_pipeline.index ROOT"""

from __future__ import annotations

import argparse
import sys
import time

from data_pipeline.errors import InputError
from data_pipeline.index.build import DamagedShardsError, build_index, parse_part
from data_pipeline.index.check import check_index
from data_pipeline.index.manifest import MANIFEST, Manifest


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    try:
        part = None if options.part is None else parse_part(options.part)
        run = check_index if options.check else build_index
        manifest = run(options.root, options.out, options.workers, part=part, show=True)
    except DamagedShardsError as error:
        print(*(f"pineco: {line}" for line in [*error.lines, error.summary]), sep="\n", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pineco: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
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
        prog="python -m data_pipeline.index",
        description="Index webdataset shards: where every member lies, and its crc32. Run again, it goes on.",
    )
    parser.add_argument("root", metavar="ROOT", help="a folder of *.tar, or s3://bucket/prefix")
    parser.add_argument("--out", metavar="DIR", help="folder or s3://bucket/prefix of the index (default: ROOT)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: as many as are worth it)")
    parser.add_argument("--part", metavar="K/N", help="only every Nth shard, from the Kth on, and no manifest")
    parser.add_argument("--check", action="store_true", help="read every shard again and compare; writes nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
