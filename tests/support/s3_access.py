"""Access to an S3 server of the tests."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import pytest

from pineco.data_pipeline.stores.s3 import S3Settings, S3Store
from tests.support.faults import FaultProxy, load_rules
from tests.support.s3 import S3Server, in_thread
from tests.support.shards import tar_bytes

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYCANARY",
    "AWS_SECRET_ACCESS_KEY": "canary+secret/key",
    "AWS_SESSION_TOKEN": "canary-session-token",
}


SETTINGS = S3Settings(connect_timeout=5, read_timeout=5, min_rate=0)  # a busy machine is no fault


IMPATIENT = S3Settings(connect_timeout=5, read_timeout=0.3, min_rate=0)  # for connections that stall


SHARD = tar_bytes((f"{i:03}.txt", random.Random(i).randbytes(400)) for i in range(250))  # 256 KB


# A client reads 0.1 s of JSON unless it shares its loader with the others.
SHARED_LOADER = functools.cache(botocore.loaders.create_loader)


Rule = dict[str, Any]  # as in JSON


Start = Callable[..., tuple[S3Store, FaultProxy]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The AWS environment of a user, and nothing of the machine's."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(botocore.session, "create_loader", SHARED_LOADER)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name, value in {**SECRETS, "AWS_REGION": "test-region-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that the server shows as s3://bucket/data."""
    data = tmp_path / "server" / "bucket" / "data"
    data.mkdir(parents=True)
    (data / "a.tar").write_bytes(SHARD)
    return data


@pytest.fixture
def start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """start(*rules, **options): a store behind a proxy with these rules; its pauses take no time."""
    with ExitStack() as stack:
        upstream = stack.enter_context(in_thread(S3Server(folder.parents[1], page=2).answer))

        def begin(*rules: Rule, settings: S3Settings | None = None, **options: Any) -> tuple[S3Store, FaultProxy]:
            settings = settings or (IMPATIENT if any(rule["action"] == "stall" for rule in rules) else SETTINGS)
            proxy = FaultProxy(upstream, load_rules(json.dumps(rules)))
            monkeypatch.setenv("AWS_ENDPOINT_URL", stack.enter_context(in_thread(proxy.answer)))
            return S3Store("s3://bucket/data", settings, **{"sleep": lambda seconds: None, **options}), proxy

        yield begin
