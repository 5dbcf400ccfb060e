"""What the tests of triplets share: sources in the published layouts, and the table that comes out."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from tests.support.prepared import samples, write_npy
from tests.support.shards import solid

NIGHTS_HEADER = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,prompt,is_imagenet,split"


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "triplets.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def images(folder: Path) -> list[bytes]:
    """Of every sample in order: what the numbers of the table are about."""
    found = []
    for _, members in samples(folder):
        (data,) = members.values()
        found.append(data)
    return found


def sides(folder: Path, row: dict[str, str]) -> list[bytes]:
    every = images(folder)
    return [every[int(row[side])] for side in ("ref", "left", "right")]


def write_nights(root: Path, rows: list[str], header: str = NIGHTS_HEADER, colours: int = 12) -> Path:
    """data.csv, and an image c.png of each colour in ref/ and distort/."""
    for folder in ("ref", "distort"):
        (root / folder).mkdir(parents=True)
        for colour in range(colours):
            (root / folder / f"{colour}.png").write_bytes(solid(colour))
    (root / "data.csv").write_text("\n".join([header, *rows, ""]))
    return root


def nights_row(number: int, reference: int, left: int, right: int, **changes: object) -> str:
    fields = {
        "id": number, "left_vote": 0.25, "right_vote": 0.75, "votes": 8, "ref_path": f"ref/{reference}.png",
        "left_path": f"distort/{left}.png", "right_path": f"distort/{right}.png", "prompt": "a, b",
        "is_imagenet": True, "split": "train",
    }  # fmt: skip
    return ",".join(f'"{value}"' if "," in str(value) else str(value) for value in (fields | changes).values())


def write_bapps(root: Path, judgements: Mapping[str, object]) -> Path:
    """judgements: SPLIT/SUBSET/NAME -> what its npy file holds; every image has a colour of its own."""
    for number, (name, value) in enumerate(judgements.items()):
        subset, _, stem = name.rpartition("/")
        for place, side in enumerate(("ref", "p0", "p1")):
            path = root / subset / side / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(solid(3 * number + place))
        write_npy(root / subset / "judge" / f"{stem}.npy", value)
    return root


def write_things(root: Path, train: str, *, val: str | None = None, count: int = 6) -> Path:
    """Concept folders with an image each, in the order of their names, and the published text files."""
    for number in range(count):
        folder = root / "images" / f"{chr(ord('a') + number)}_concept"
        folder.mkdir(parents=True)
        (folder / f"{number}.png").write_bytes(solid(number))
    (root / "trainset.txt").write_text(train)
    if val is not None:
        (root / "validationset.txt").write_text(val)
    return root
