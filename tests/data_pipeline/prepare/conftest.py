"""Small sources as people download them, and the command line that turns them into shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import numpy as np
import pytest
from PIL import Image

from pineco.data_pipeline.index import read_samples
from tests.data_pipeline.conftest import encode, natural_image, write_shard
from tests.data_pipeline.stores.test_s3 import SECRETS, SHARED_LOADER
from tests.support.commands import command
from tests.support.s3 import S3Server, in_thread

main = command("data prepare")

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


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Prepare:
    """prepare(kind, source, destination, *options): the command line, in this process unless --workers says more."""

    def call(kind: str, source: object, destination: object, *options: object) -> Done:
        capsys.readouterr()
        workers = [] if "--workers" in options else ["--workers", "1"]
        code = main([kind, str(source), str(destination), *workers, *map(str, options)])
        return Done(code, *capsys.readouterr())

    return call


def write_npy(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, value)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a server shows as s3://bucket, in the AWS environment of a user."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(botocore.session, "create_loader", SHARED_LOADER)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name, value in {**SECRETS, "AWS_REGION": "test-region-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "server" / "bucket").mkdir(parents=True)
    with in_thread(S3Server(tmp_path / "server", page=3).answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield tmp_path / "server" / "bucket"
