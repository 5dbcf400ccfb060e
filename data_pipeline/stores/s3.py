"""Webdataset shards in an S3 bucket: every range checked, resumed where it was cut, retried by one policy."""

from __future__ import annotations

import copy
import logging
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import boto3
from botocore import exceptions as aws
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores.names import check_name
from pineco.data_pipeline.stores.retry import NetworkSettings, PassingError, Retry, persist
from pineco.data_pipeline.stores.s3_get import RangeGetter

Result = TypeVar("Result")
MAX_OBJECT = 5 << 30  # bytes that S3 takes in one request
S3Settings = NetworkSettings
_CHUNK = 1 << 18  # bytes taken from a connection at once at most; what came before a cut is kept
_PASSING_CODES = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded")


@dataclass(frozen=True)
class S3Counters:
    """What a store has done since it was opened."""

    requests: int = 0
    retries: int = 0  # requests that repeat or go on with another one
    resumed: int = 0  # retries that went on in the middle of a body
    bytes: int = 0  # of bodies, received


@dataclass(frozen=True)
class _Object:
    size: int  # bytes
    etag: str  # in quotes, as If-Match wants it


class S3Store:
    """`s3://bucket/prefix` through boto3; endpoint, region and credentials from the usual AWS environment.

    A shard's size and ETag are learnt once, and every read insists on that ETag: an object that changes in the course
    of a run stops the run. Safe for several threads; not to be used across a fork (pickling it is fine).
    """

    def __init__(
        self,
        root: str,
        settings: S3Settings | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] | None = None,
    ) -> None:
        """draw: uniform on [0, 1), for the pauses; sleep and clock in seconds."""
        self.bucket, self.prefix = split_url(root)
        self.root, self.settings = f"s3://{self.bucket}/{self.prefix}".rstrip("/"), settings or S3Settings()
        # A generator of its own: the global one is seeded by trainers, and retries must not move it.
        self._sleep, self._clock, self._draw = sleep, clock, draw or random.Random().random
        self._objects: dict[str, _Object] = {}
        self._lock, self._counts = threading.Lock(), Counter[str]()
        self._client = _connect(self.root, self.settings)
        self._ranges = RangeGetter(self._client, self.bucket)

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, S3Settings]]:
        return S3Store, (self.root, self.settings)

    def below(self, folder: str) -> S3Store:
        """The store of a folder in it, through the same client: making one takes 0.15 s."""
        store = copy.copy(self)
        store.prefix = f"{self.prefix}{folder}/"
        store.root = f"s3://{self.bucket}/{store.prefix}".rstrip("/")
        store._objects, store._counts, store._lock = {}, Counter(), threading.Lock()
        return store

    def __copy__(self) -> S3Store:
        store = object.__new__(S3Store)
        store.__dict__.update(self.__dict__)
        return store

    @property
    def counters(self) -> S3Counters:
        with self._lock:
            return S3Counters(**self._counts)

    def list_shards(self) -> list[str]:
        """Names of the *.tar objects directly below the prefix, sorted; raises InputError when there is none."""
        names = []
        for entry in self._list_objects(self.prefix):
            name = entry["Key"].removeprefix(self.prefix)
            if name.endswith(".tar") and name != ".tar":
                names.append(name)
                # setdefault: a shard that was replaced since the first listing must not pass for the old one
                self._objects.setdefault(name, _Object(entry["Size"], _quoted(entry["ETag"])))
        if not names:
            raise InputError(f"{self.root}: holds no *.tar shard; check bucket and prefix, or write the shards first")
        return sorted(names)

    @property
    def retries(self) -> int:
        return self._counts["retries"]

    @property
    def root_name(self) -> str:
        return self.root

    def find(self, name: str) -> int | None:
        """Bytes of an object, None where there is none of that name; asks by listing, which 403 cannot hide."""
        for entry in self._list_objects(self.prefix + check_name(name)):
            if entry["Key"] == self.prefix + name:
                return int(entry["Size"])
        return None

    def list_names(self) -> dict[str, int]:
        """Bytes of every object directly below the prefix, by name."""
        found = ((entry["Key"].removeprefix(self.prefix), entry["Size"]) for entry in self._list_objects(self.prefix))
        return {name: size for name, size in found if name}

    def size(self, name: str) -> int:
        """Bytes of a shard."""
        return self._object(name).size

    def etag(self, name: str) -> str:
        """Of the object as it was found first, without quotes."""
        return self._object(name).etag.strip('"')

    def modified(self, name: str) -> int | None:
        return None

    def write(self, name: str, data: bytes | Path) -> None:
        """Publishes bytes, or a copy of a local file of up to 5 GiB, as one object."""
        key, where = self.prefix + check_name(name), self.where(name)
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size > MAX_OBJECT:
            raise InputError(f"{where}: {size} bytes, one request stores {MAX_OBJECT} at most; write smaller shards")

        def attempt() -> dict[str, Any]:
            if isinstance(data, bytes):
                return _whole(self._client.put_object(Bucket=self.bucket, Key=key, Body=data), "ETag")
            with data.open("rb") as file:
                return _whole(self._client.put_object(Bucket=self.bucket, Key=key, Body=file), "ETag")

        self._objects[name] = _Object(size, _quoted(self._persist(where, attempt)["ETag"]))

    def remove(self, name: str) -> None:
        """Takes an object away; that there is none is no error in S3."""
        self._ask(self.where(name), (), "delete_object", Key=self.prefix + check_name(name))
        self._objects.pop(name, None)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset`; fewer only where the shard ends."""
        found = self._object(name)
        end = min(offset + length, found.size)
        received = BytesIO()  # gives its bytes away without a copy
        if offset < end:
            self._persist(self.where(name), lambda: self._receive(name, found, offset, end, received))
        return received.getvalue()

    def where(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _object(self, name: str) -> _Object:
        if name not in self._objects:
            key = self.prefix + check_name(name)
            head = self._ask(self.where(name), ("ContentLength", "ETag"), "head_object", Key=key)
            self._objects.setdefault(name, _Object(head["ContentLength"], _quoted(head["ETag"])))
        return self._objects[name]

    def _list_objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            listing = {"Prefix": prefix, "Delimiter": "/", **token}
            page = self._ask(self.root, ("IsTruncated",), "list_objects_v2", tries=self.settings.first_tries, **listing)
            yield from page.get("Contents", [])
            if not page["IsTruncated"]:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _ask(
        self, where: str, fields: tuple[str, ...], operation: str, *, tries: int | None = None, **arguments: str
    ) -> dict[str, Any]:
        """The answer to a small request, with these fields."""
        request = partial(getattr(self._client, operation), Bucket=self.bucket, **arguments)
        return self._persist(where, lambda: _whole(request(), *fields), tries)

    def _receive(self, name: str, found: _Object, offset: int, end: int, received: BytesIO) -> None:
        """One request for what is still missing of bytes `offset` to `end`, appended to `received` as it comes."""
        start = offset + received.tell()
        if start > offset:
            self._count(resumed=1)
        answer = self._ranges.get(self.prefix + name, start, end, found.etag)
        with closing(answer.raw) as body:  # closes the connection unless the body was read to its end
            self._check(answer, self.where(name), found, start, end)
            began, wanted = self._clock(), end - start
            while missing := end - offset - received.tell():
                self._check_rate(wanted - missing, self._clock() - began)
                data = body.read1(min(missing, _CHUNK))
                if not data:  # http.client reports no early end here
                    raise PassingError(f"the connection closed {missing} bytes early")
                received.write(data)
                self._count(bytes=len(data))

    @staticmethod
    def _check(answer: AWSResponse, where: str, found: _Object, start: int, end: int) -> None:
        """Raises unless the answer is exactly bytes `start` to `end` of the object that was found at first."""
        etag, status = answer.headers.get("ETag"), answer.status_code
        if etag is not None and _quoted(etag) != found.etag:
            _refuse_changed(where)
        if status != 206:
            raise PassingError(f"status {status} to a request for a range: the server ignores ranges")
        held = answer.headers.get("Content-Range"), answer.headers.get("Content-Length"), etag is not None
        if held != (f"bytes {start}-{end - 1}/{found.size}", str(end - start), True):
            raise PassingError("the answer holds another range than was asked for, or no ETag")

    def _check_rate(self, received: int, seconds: float) -> None:
        if seconds > self.settings.read_timeout and received < self.settings.min_rate * seconds:
            raise PassingError(f"less than {self.settings.min_rate} bytes/s")

    def _persist(self, where: str, attempt: Callable[[], Result], tries: int | None = None) -> Result:
        """The result of `attempt`, tried again after failures that may pass; InputError after the others."""

        def counted() -> Result:
            self._count(requests=1)
            return attempt()

        retry = Retry(
            settings=self.settings,
            catch=(aws.BotoCoreError, aws.ClientError, ResponseParserError, HTTPError, PassingError),
            judge=judge,
            sleep=self._sleep,
            draw=self._draw,
            retried=lambda: self._count(retries=1),
            advice="check the network, AWS_ENDPOINT_URL and the service, and start again",
        )
        return persist(counted, where, tries or self.settings.tries, retry)

    def _count(self, **more: int) -> None:
        with self._lock:
            self._counts.update(more)


def _whole(answer: dict[str, Any], *fields: str) -> dict[str, Any]:
    """An answer that has these fields: botocore takes a body that was cut for an empty one."""
    if missing := [field for field in fields if field not in answer]:
        raise PassingError(f"an answer without {' and '.join(missing)}")
    return answer


def split_url(url: str) -> tuple[str, str]:
    """("bucket", "a/b/") of "s3://bucket/a/b"; the prefix is "" for the whole bucket."""
    match = re.fullmatch(r"s3://([a-zA-Z0-9._-]{3,255})(?:/(.*))?", url)
    prefix = (match[2] or "").strip("/") if match else ""
    if not match or re.search(r"\?.*=", url) or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        # Not repeated in the message: people write keys and secrets into URLs.
        raise InputError("not of the form s3://bucket/prefix; credentials and endpoint come from the AWS environment")
    return match[1], f"{prefix}/" if prefix else ""


def judge(error: Exception, where: str) -> str:
    """Why another try may succeed; raises InputError, in words that hold no secret, where none can.

    Nothing that a server wrote is repeated but a status and a code: an answer may quote the request's headers.
    """
    if isinstance(error, PassingError):
        return str(error)
    if isinstance(error, aws.ClientError):
        return _judge_answer(error.response, where)
    kind = type(error).__name__
    if isinstance(error, (aws.HTTPClientError, aws.ConnectionError, ResponseParserError, HTTPError)):
        return kind
    if "Credential" in kind or "Token" in kind:
        raise InputError(f"{where}: {kind}: {_CREDENTIALS}") from None
    raise InputError(f"{where}: {kind}: check AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL") from None


_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID with its secret (and AWS_SESSION_TOKEN for temporary ones)"
_ADVICE = {
    400: f"an expired session token or a wrong AWS_REGION, most often; {_CREDENTIALS}",
    401: _CREDENTIALS,
    403: f"not allowed, or a bad key; {_CREDENTIALS}, and allow s3:ListBucket and s3:GetObject on the bucket "
    "(and s3:PutObject to write)",
    404: "no such bucket or object; check the name and AWS_ENDPOINT_URL",
}


def _judge_answer(response: dict[str, Any], where: str) -> str:
    metadata = response.get("ResponseMetadata", {})
    status, code = metadata.get("HTTPStatusCode", 0), str(response.get("Error", {}).get("Code", ""))
    what = f"status {status}" + (f" ({code})" if re.fullmatch("[A-Za-z]{1,40}", code) else "")
    if status >= 500 or status == 429 or code in _PASSING_CODES:
        return what
    if status in (412, 416):
        _refuse_changed(where)
    if 300 <= status < 400:
        region = metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
        known = f" ({region})" if re.fullmatch("[a-z0-9-]{1,30}", region) else ""
        advice = f"a signed request is not redirected; set AWS_REGION to the bucket's{known}, or mend AWS_ENDPOINT_URL"
    else:
        advice = _ADVICE.get(status, "check AWS_ENDPOINT_URL and AWS_REGION")
    raise InputError(f"{where}: {what}: {advice}") from None


def _refuse_changed(where: str) -> NoReturn:
    raise InputError(
        f"{where}: the object changed while it was read; start again, and leave the shards alone"
    ) from None


def _quoted(etag: str) -> str:
    return '"' + etag.strip('"') + '"'


def _connect(root: str, settings: S3Settings) -> Any:
    """A boto3 client with one try a request, that talks to the configured endpoint only and logs no headers."""
    for name in ("boto3", "botocore"):  # at DEBUG they log session tokens and signatures, at INFO chatter
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    for name in ("urllib3", "urllib3.connection", "urllib3.connectionpool"):  # at WARNING it quotes signed addresses
        logging.getLogger(name).setLevel(logging.ERROR)
    config = Config(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        signature_version="s3v4",
        max_pool_connections=settings.connections,
        retries={"total_max_attempts": 1},
        tcp_keepalive=True,
        response_checksum_validation="when_required",  # S3 has none for ranges; the index holds a crc32 a member
    )
    try:
        client = boto3.session.Session(region_name=os.environ.get("AWS_REGION")).client("s3", config=config)
    except (aws.BotoCoreError, ValueError) as error:
        raise InputError(f"{root}: {judge(error, root)}") from None
    client.meta.events.register_last("before-parameter-build.s3", _stay_on_this_host)
    return client


def _stay_on_this_host(context: dict[str, Any], **_: object) -> None:
    """Tells botocore that its one redirect to another region's host is used up: it would send a signed request."""
    context.setdefault("s3_redirect", {})["redirected"] = True
