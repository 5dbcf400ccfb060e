"""Signed addresses that many requests share: not used past their time, and wrong answers keep what they say."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import ClientError

from pineco.data_pipeline.stores.s3_get import RangeGetter


class Client:
    """A boto3 client as far as it is used: numbers the addresses that it signs, and answers what it is told."""

    def __init__(self, status: int = 206, body: bytes = b"", **headers: str) -> None:
        self.requests: list[AWSPreparedRequest] = []
        self.signed, self.closed = 0, list[bool]()
        self._endpoint = SimpleNamespace(http_session=self)
        raw = SimpleNamespace(read1=io.BytesIO(body).read, close=lambda: self.closed.append(True))
        self.answer = SimpleNamespace(status_code=status, headers=headers, raw=raw)

    def generate_presigned_url(self, operation: str, *, Params: dict[str, str], ExpiresIn: int) -> str:
        assert (operation, ExpiresIn) == ("get_object", 3600)
        self.signed += 1
        return f"https://host/{Params['Bucket']}/{Params['Key']}?signature={self.signed}"

    def send(self, request: AWSPreparedRequest) -> Any:
        self.requests.append(request)
        return self.answer


@pytest.mark.parametrize(("later", "signed"), [(0.0, 1), (299.0, 1), (301.0, 2), (-1.0, 2)])
def test_an_address_is_signed_anew_before_it_expires(later: float, signed: int) -> None:
    """A run would stop with 403 after 15 minutes; a clock that is set back would make an old signature look fresh."""
    client, now = Client(), [1000.0]
    getter = RangeGetter(client, "bucket", lambda: now[0])
    getter.get("a.tar", 0, 5, '"tag"')
    now[0] += later
    getter.get("a.tar", 7, 9, '"tag"')
    assert [request.url for request in client.requests] == [
        f"https://host/bucket/a.tar?signature={n}" for n in (1, signed)
    ]
    assert [request.headers["Range"] for request in client.requests] == ["bytes=0-4", "bytes=7-8"]
    assert {request.headers["If-Match"] for request in client.requests} == {'"tag"'}


def test_every_object_has_its_own_address() -> None:
    """Bytes of another shard would come."""
    client = Client()
    getter = RangeGetter(client, "bucket", lambda: 0.0)
    for key in ("a.tar", "b.tar", "a.tar"):
        getter.get(key, 0, 5, '"tag"')
    assert [request.url.split("?")[0][-5:] for request in client.requests] == ["a.tar", "b.tar", "a.tar"]
    assert client.signed == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"<Error><Code>SlowDown</Code></Error>", "SlowDown"),
        (b"<Code>a secret, 1234</Code>", ""),
        (b"x" * (1 << 20) + b"<Code>SlowDown</Code>", ""),
        (b"", ""),
    ],
)
def test_a_refusal_keeps_status_and_code_only(body: bytes, code: str) -> None:
    """Retries judge by the code; the rest of a body may quote the request, or go on for ever."""
    client = Client(400, body, **{"X-Amz-Bucket-Region": "eu-west-9"})
    with pytest.raises(ClientError) as caught:
        RangeGetter(client, "bucket").get("a.tar", 0, 5, '"tag"')
    assert client.closed
    assert caught.value.response["Error"] == {"Code": code}
    assert caught.value.response["ResponseMetadata"] == {
        "HTTPStatusCode": 400,
        "HTTPHeaders": {"x-amz-bucket-region": "eu-west-9"},
    }


def test_addresses_do_not_pile_up() -> None:
    """A run over a hundred thousand shards would keep an address of each."""
    client = Client()
    getter = RangeGetter(client, "bucket", lambda: 0.0)
    for number in range(10_000):
        getter.get(f"{number}.tar", 0, 5, '"tag"')
    assert len(getter._signed) <= 4096


def test_a_refusal_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken server that sends an error byte by byte would hold a batch for as long as it likes."""
    client, now = Client(503), [0.0]

    def drip(size: int) -> bytes:
        now[0] += 1.0
        return b"x"

    client.answer.raw.read1 = drip
    monkeypatch.setattr("pineco.data_pipeline.stores.s3_get.time.monotonic", lambda: now[0])
    with pytest.raises(ClientError):
        RangeGetter(client, "bucket", lambda: 0.0).get("a.tar", 0, 5, '"tag"')
    assert now[0] <= 6
    assert client.closed
