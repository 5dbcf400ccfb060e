"""BAPPS' 2AFC part: SPLIT/SUBSET/{ref,p0,p1,judge}/NAME.png|npy (arXiv 1801.03924).

p0 becomes left, p1 right; a judgement is the share of people who preferred p1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import IMAGE_SUFFIXES, LINKED_FOLDER, MISSING, read_below
from pineco.data_pipeline.prepare.job import fingerprint
from pineco.data_pipeline.prepare.outcome import Rejected, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.samples.npy import MAX_BYTES, parse_number
from pineco.data_pipeline.prepare.sources.judgements import JudgementList
from pineco.data_pipeline.prepare.sources.triplet_shards import TripletShards, triplet_shards

VOTES = {"train": 2, "val": 5}  # judgements of each triplet, which the files do not say
SIDES = ("ref", "p0", "p1")
BAD_JUDGEMENT = "judgement is no number from 0 to 1"
_LAYOUT = "expected BAPPS' folder 2afc: SPLIT/SUBSET/ref, p0, p1 (NAME.png) and judge (NAME.npy), SPLIT train or val"


def open_bapps(root: Path, rules: ImageRules, shard_size: int, threads: int) -> TripletShards:
    """Reads every judgement; raises InputError where SRC has another layout. root: resolved."""
    rows, rejected, names = JudgementList(), [], []
    for subset in _subsets(root):
        if isinstance(subset, Rejected):
            rejected.append(subset)
            continue
        split, images = subset.partition("/")[0], {side: _images(root / subset / side) for side in SIDES}
        for name in _judged(root / subset / "judge"):
            names.append(f"{subset}/{name}")
            try:
                share = _judgement(read_below(root, f"{subset}/judge/{name}.npy", MAX_BYTES))
                paths = [f"{subset}/{side}/{_image(images, side, name)}" for side in SIDES]
                rows.add(names[-1], split, share, VOTES[split], paths, {})
            except RejectError as error:
                rejected.append(error.at(names[-1]))
    if not names:
        raise InputError(f"{root}: {_LAYOUT}")
    source = fingerprint(names)
    return triplet_shards(
        "bapps", root, *rows.build(), rules, shard_size, source=source, rejected=rejected, threads=threads
    )


def _subsets(root: Path) -> Iterator[str | Rejected]:
    """train/cnn, ...: the folders that hold judgements; a link to a folder is not followed."""
    for split in VOTES:
        for path in sorted((root / split).iterdir()) if (root / split).is_dir() else ():
            if path.is_symlink() or (root / split).is_symlink():
                yield Rejected(f"{split}/{path.name}", LINKED_FOLDER)
            elif (path / "judge").is_dir():
                yield f"{split}/{path.name}"


def _judged(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir() if path.suffix == ".npy")


def _images(folder: Path) -> Mapping[str, str]:
    """File names by their stem; none where there is no such folder."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.stem: path.name for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}


def _image(images: Mapping[str, Mapping[str, str]], side: str, name: str) -> str:
    if name not in images[side]:
        raise RejectError(MISSING, f"{side}/{name}")
    return images[side][name]


def _judgement(data: bytes) -> float:
    try:
        share = parse_number(data)
    except ValueError as error:
        raise RejectError(BAD_JUDGEMENT, str(error)) from None
    if not 0 <= share <= 1:
        raise RejectError(BAD_JUDGEMENT, str(share))
    return share
