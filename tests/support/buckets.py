"""A folder of shards as s3://bucket/data, behind a proxy that breaks answers by rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import pytest

from pineco.data_pipeline.stores.s3 import S3Settings, S3Store
from pineco.data_pipeline.stores.store import LocalStore, Store
from tests.support.faults import FaultProxy, Rule
from tests.support.s3 import S3Server, in_thread

ROOT = "s3://bucket/data"
PATIENT = S3Settings(read_timeout=20, min_rate=0)
QUICK = S3Settings(read_timeout=0.3, min_rate=0)  # where a stall has to be noticed; a busy machine may look like one

# A client reads 0.1 s of JSON unless it shares its loader with the others.
_SHARED_LOADER = functools.cache(botocore.loaders.create_loader)


def _at_once(seconds: float) -> None:
    """A pause that takes no time."""


class Bucket:
    """folder: what the server shows as s3://bucket/data."""

    def __init__(self, folder: Path, proxy: FaultProxy) -> None:
        self.folder, self.proxy = folder, proxy

    def store(self, settings: S3Settings = PATIENT, *, sleep: Callable[[float], None] = _at_once) -> S3Store:
        """sleep: takes the place of the pauses between tries, which by default take no time."""
        return S3Store(ROOT, settings, sleep=sleep)

    def local(self) -> Store:
        return LocalStore(self.folder)

    def break_by(self, *rules: dict[str, Any]) -> None:
        """From now on GETs of shards meet these faults; what fired before is forgotten."""
        self.proxy.set_rules([Rule(**{"method": "GET", "key": "*.tar", **rule}) for rule in rules])
        self.proxy.fired.clear()
        self.proxy.requests.clear()

    @property
    def gets(self) -> int:
        """Requests for bytes of shards since the rules were set."""
        return sum(request.method == "GET" and request.path.endswith(".tar") for request in self.proxy.requests)


@contextmanager
def serve(root: Path) -> Iterator[Bucket]:
    """A bucket whose objects are the files below `root`; the environment names it and nothing of the machine's."""
    folder = root / "bucket" / "data"
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch, in_thread(S3Server(root).answer) as upstream:
        for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            patch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(root / "none"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "any")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(botocore.session, "create_loader", _SHARED_LOADER)
        proxy = FaultProxy(upstream, [])
        with in_thread(proxy.answer) as url:
            patch.setenv("AWS_ENDPOINT_URL", url)
            yield Bucket(folder, proxy)
