"""Small sources as people download them, and the command line that turns them into shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest

from tests.support.commands import command
from tests.support.prepared import Done, Prepare
from tests.support.s3 import S3Server, in_thread
from tests.support.s3_access import SECRETS, SHARED_LOADER

main = command("data prepare")


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Prepare:
    """prepare(kind, source, destination, *options): the command line, in this process unless --workers says more."""

    def call(kind: str, source: object, destination: object, *options: object) -> Done:
        capsys.readouterr()
        workers = [] if "--workers" in options else ["--workers", "1"]
        code = main([kind, str(source), str(destination), *workers, *map(str, options)])
        return Done(code, *capsys.readouterr())

    return call


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
