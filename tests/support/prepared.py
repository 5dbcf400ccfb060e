"""What people download, as small files, and what `prepare` makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pineco.data_pipeline.index import read_samples
from tests.support.shards import encode, natural_image, write_shard

Members = dict[str, bytes]


URL = "s3://bucket/data/set"


def photo(seed: int, width: int = 24, height: int = 16, **options: Any) -> bytes:
    """A JPEG; another one for every seed."""
    return encode(Image.fromarray(natural_image(height, width, seed)), "JPEG", quality=80, **options)


def pair_files(numbers: Iterable[int], **changes: dict[str, bytes | None]) -> list[tuple[str, bytes]]:
    """The members of a shard as img2dataset writes it. changes: key -> extension -> other bytes, None for none."""
    files = []
    for number in numbers:
        key = f"{number:09}"
        meta = {"key": key, "caption": f"photo {number}", "url": "http://x/", "status": "success", "width": 24}
        sample: dict[str, bytes | None] = {
            "jpg": photo(number),
            "json": json.dumps(meta | {"exif": "{}"}, indent=4).encode(),
            "txt": f"photo {number}".encode(),
        }
        sample |= changes.get(f"k{number}", {})
        files += [(f"{key}.{extension}", data) for extension, data in sample.items() if data is not None]
    return files


def write_pairs(root: Path, sizes: tuple[int, ...] = (3, 2, 4), **changes: dict[str, bytes | None]) -> Path:
    """img2dataset's webdataset output: tars of these numbers of samples, and what lies beside them."""
    first = 0
    for shard, size in enumerate(sizes):
        write_shard(root / f"{shard:05}.tar", pair_files(range(first, first + size), **changes))
        (root / f"{shard:05}_stats.json").write_text("{}")
        (root / f"{shard:05}.parquet").write_bytes(b"PAR1")
        first += size
    return root


def samples(folder: Path) -> list[tuple[str, Members]]:
    """(key, members) of every sample of a folder of shards, in order."""
    return [sample for path in sorted(folder.glob("*.tar")) for sample in read_samples(path)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rejections(folder: Path) -> dict[str, str]:
    """Reason by path, of rejected.jsonl."""
    path = folder / "rejected.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["path"]: row["reason"] for row in rows}


def prepared(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "prepare.json").read_text())


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Prepare = Callable[..., Done]


def write_npy(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asanyarray(value))


def write_classes(root: Path, classes: dict[str, int]) -> Path:
    number = 0
    for name, size in classes.items():
        (root / name).mkdir(parents=True)
        for place in range(size):
            (root / name / f"{place}.JPEG").write_bytes(photo(number))
            number += 1
    return root


def write_table(root: Path, rows: list[str], header: str = "filepath\ttitle", images: int = 6) -> Path:
    (root / "images").mkdir(parents=True)
    for number in range(images):
        (root / "images" / f"{number}.jpg").write_bytes(photo(number))
    (root / "table.csv").write_bytes("\n".join([header, *rows, ""]).encode("utf-8", "surrogateescape"))
    return root / "table.csv"
