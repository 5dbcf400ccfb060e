"""Shards in S3: what comes is what is there, whatever the network and the service do; the rest is one clear line."""

from __future__ import annotations

import logging
import pickle
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import index_shard
from pineco.data_pipeline.stores import s3
from pineco.data_pipeline.stores.s3 import S3Settings, S3Store
from pineco.data_pipeline.stores.store import LocalStore, open_store
from tests.support.faults import FaultProxy
from tests.support.s3 import S3Server, in_thread
from tests.support.s3_access import IMPATIENT, SECRETS, SETTINGS, SHARD, Rule, Start
from tests.support.s3_access import environment as environment
from tests.support.s3_access import folder as folder
from tests.support.s3_access import start as start

OBJECT = "s3://bucket/data/a.tar"


def read_all(store: S3Store, step: int = 50_000) -> bytes:
    return b"".join(store.read("a.tar", offset, step) for offset in range(0, store.size("a.tar"), step))


PASSING: dict[str, Rule] = {
    "reset": {"action": "reset", "value": 10_000, "nth": 2},
    "reset before the head": {"action": "reset", "value": -1, "nth": 2},
    "cut at the first byte": {"action": "cut", "value": 0, "nth": 1},
    "cut": {"action": "cut", "value": 33_333, "nth": 2},
    "cut, often": {"action": "cut", "value": 9_999, "probability": 0.5},
    "closed before the head": {"action": "cut", "value": -1, "nth": 1},
    "stall": {"action": "stall", "value": 20_000, "nth": 2},
    "stall before the head": {"action": "stall", "value": -1, "nth": 1},
    "500": {"action": "status", "value": 500, "nth": 3},
    "503": {"action": "status", "value": 503, "probability": 0.3},
    "wrong Content-Range": {"action": "content_range", "nth": 2},
    "range ignored": {"action": "ignore_range", "nth": 2},
}


@pytest.mark.parametrize("rule", PASSING.values(), ids=PASSING)
def test_a_passing_fault_changes_no_byte(start: Start, rule: Rule) -> None:
    """A shard would lose its tail or hold bytes twice, and training would go on with it."""
    store, proxy = start({"method": "GET", "key": "*.tar", **rule})
    assert read_all(store) == SHARD
    assert {fault.action for fault in proxy.fired} == {rule["action"]}
    assert store.counters.retries >= len(proxy.fired) > 0
    assert store.counters.bytes == len(SHARD), "bytes came twice"
    assert store.counters.requests == len(proxy.requests)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("rule", [PASSING["503"], PASSING["500"] | {"nth": 1}, PASSING["stall before the head"]])
def test_listing_and_sizes_are_tried_again(start: Start, method: str, rule: Rule) -> None:
    """A busy service at the start would end the run."""
    store, proxy = start(rule | {"method": method, "nth": 1, "probability": 1})
    assert store.size("a.tar") == len(SHARD)
    assert store.list_shards() == ["a.tar"]
    assert len(proxy.fired) == store.counters.retries == 1


def test_a_cut_listing_is_not_a_short_one(start: Start, folder: Path) -> None:
    """botocore takes an empty body for an empty page: the data set would lose its shards in silence."""
    (folder / "b.tar").write_bytes(SHARD)
    (folder / "c.tar").write_bytes(SHARD)
    store, proxy = start(
        {"action": "cut", "value": 0, "query": "list-type=2*", "nth": 2},
        {"action": "cut", "value": 150, "query": "list-type=2*", "nth": 2},
    )
    assert store.list_shards() == ["a.tar", "b.tar", "c.tar"]
    assert [fault.action for fault in proxy.fired] == ["cut", "cut"]


def test_a_cut_body_goes_on_where_it_was_cut(start: Start) -> None:
    """A slow link would fetch the same bytes again and again, or mix two versions of an object."""
    store, proxy = start({"action": "cut", "value": 70_000, "method": "GET", "nth": 1})
    assert store.read("a.tar", 1000, 100_000) == SHARD[1000:101_000]
    (target,) = {request.target for request in proxy.requests if request.method == "GET"}
    gets = [request.headers for request in proxy.requests if request.method == "GET"]
    assert [headers["range"] for headers in gets] == ["bytes=1000-100999", "bytes=71000-100999"]
    (tag,) = {headers["if-match"] for headers in gets}
    assert len(tag) > 10
    assert (store.counters.resumed, store.counters.retries) == (1, 1)
    assert "%2Ftest-region-1%2Fs3%2F" in target, "AWS_REGION was not heard"


def test_a_drip_is_waited_for_or_cut(start: Start) -> None:
    """One bad connection would hold a batch, and with it every rank, for hours."""
    drip = {"action": "rate", "value": 10_000, "method": "GET", "nth": 1}
    store, proxy = start(drip, settings=IMPATIENT)
    assert store.read("a.tar", 0, 5_000) == SHARD[:5_000]
    assert (store.counters.retries, len(proxy.fired)) == (0, 1)
    store, proxy = start(drip, settings=S3Settings(read_timeout=0.3, min_rate=100_000))
    assert read_all(store) == SHARD
    assert (store.counters.resumed, len(proxy.fired)) == (1, 1)


def test_a_body_that_came_is_not_too_slow(start: Start) -> None:
    """The last byte of a slow body would be thrown away, and a range of no bytes asked for."""
    settings = S3Settings(read_timeout=5, min_rate=1_000_000)
    store, _ = start(settings=settings, clock=iter([0.0, 0.0, 100.0, 100.0]).__next__)
    assert store.read("a.tar", 0, 100) == SHARD[:100]
    assert store.counters.retries == 0


FATAL = {
    "403": ({"action": "status", "value": 403}, "status 403.*AWS_ACCESS_KEY_ID.*s3:GetObject"),
    "404": ({"action": "status", "value": 404}, "status 404.*check the name"),
    "400": ({"action": "status", "value": 400}, "status 400.*expired session token"),
    "changed ETag": ({"action": "etag"}, "the object changed while it was read"),
    "416": ({"action": "status", "value": 416}, "the object changed while it was read"),
}


@pytest.mark.parametrize(("rule", "message"), FATAL.values(), ids=FATAL)
def test_a_fault_that_will_not_pass_ends_at_once(
    start: Start, rule: Rule, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Hundreds of GPUs would wait for the tenth try of a request that is not allowed."""
    caplog.set_level(logging.DEBUG)
    store, proxy = start({"method": "GET", **rule})
    with pytest.raises(InputError, match=message) as caught:
        store.read("a.tar", 0, 1000)
    assert str(caught.value).startswith(OBJECT)
    assert "\n" not in str(caught.value)
    assert len(proxy.fired) == len([r for r in proxy.requests if r.method == "GET"]) == 1
    assert not [s for s in SECRETS.values() if s in str(caught.value) + repr(caught.value.args) + caplog.text]


@pytest.mark.parametrize("method", ["GET", "HEAD", "list"])
def test_a_signed_request_goes_to_no_other_host(start: Start, folder: Path, method: str) -> None:
    """Whoever answers for the endpoint could send our signed requests, with the session token, anywhere."""
    other = FaultProxy("http://127.0.0.1:1", [])
    with in_thread(other.answer) as elsewhere:
        where = {"query": "list-type=2*"} if method == "list" else {"method": method, "key": "*.tar"}
        store, proxy = start({"action": "redirect", "value": elsewhere, **where})
        with pytest.raises(InputError, match=r"status 301.*not redirected; set AWS_REGION .* \(eu-west-9\)"):
            store.list_shards() if method == "list" else store.read("a.tar", 0, 1000)
    assert [fault.action for fault in proxy.fired] == ["redirect"]
    assert len(proxy.requests) == (2 if method == "GET" else 1), "botocore's own redirect"
    assert other.requests == []


@pytest.mark.parametrize("listed", [False, True])
def test_an_object_that_changes_stops_the_run(start: Start, folder: Path, listed: bool) -> None:
    """An epoch would mix the samples of two versions, at the offsets of one."""
    store, _ = start()
    assert store.list_shards() == ["a.tar"] if listed else store.size("a.tar") == len(SHARD)
    assert store.read("a.tar", 0, 1000) == SHARD[:1000]
    bare: Any = SimpleNamespace(headers={})  # a request without conditions
    S3Server(folder.parents[1])._write(bare, folder / "a.tar", [SHARD[::-1]])
    assert store.list_shards() == ["a.tar"], "listing anew must not accept the new version"
    with pytest.raises(InputError, match=f"{OBJECT}: the object changed while it was read"):
        store.read("a.tar", 0, 1000)


def test_giving_up(start: Start) -> None:
    """A service that is down would be asked for ever, or by all readers in the same moment."""
    pauses: list[float] = []
    settings = S3Settings(tries=6, first_pause=1.0, max_pause=5.0)
    draws = iter([0.0, 0.5, 0.999, 0.0, 0.5])
    store, proxy = start(
        {"action": "status", "value": 503, "method": "GET"},
        settings=settings,
        sleep=pauses.append,
        draw=lambda: next(draws),
    )
    with pytest.raises(InputError, match=rf"{OBJECT}: gave up after 6 tries, at last: status 503 \(SlowDown\); check"):
        store.read("a.tar", 0, 1000)
    assert pauses == pytest.approx([0.5, 1.5, 4.0, 2.5, 3.75], rel=1e-3)
    assert len(proxy.fired) == 6


def test_a_server_without_ranges_is_named(start: Start) -> None:
    """Every read would fetch a whole shard, or the user would look for the fault in their data."""
    store, proxy = start({"action": "ignore_range", "method": "GET"}, settings=S3Settings(tries=2))
    with pytest.raises(InputError, match=r"gave up after 2 tries, at last: status 200 .* the server ignores ranges"):
        store.read("a.tar", 0, 1000)
    assert len(proxy.fired) == 2
    assert store.counters.bytes == 0


def test_a_dead_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong port would show a page of urllib3."""
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        store = S3Store("s3://bucket/data", S3Settings(first_tries=3), sleep=lambda seconds: None)
        with pytest.raises(InputError, match="gave up after 3 tries, at last: EndpointConnectionError; check"):
            store.list_shards()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_ENDPOINT_URL", "canary-password@host", "AWS_ENDPOINT_URL"),
        ("AWS_REGION", "not a region", "AWS_REGION"),
        ("AWS_PROFILE", "nobody", "ProfileNotFound: check AWS_PROFILE"),
        ("AWS_SECRET_ACCESS_KEY", None, "PartialCredentialsError: set AWS_PROFILE"),
        ("AWS_ACCESS_KEY_ID", None, "NoCredentialsError: set AWS_PROFILE"),
    ],
)
def test_a_bad_environment_is_one_line(
    start: Start, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, message: str
) -> None:
    """A beginner would meet a stack of botocore, or their password in it."""
    start()  # sets the endpoint
    monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(InputError, match=message) as caught:
        S3Store("s3://bucket/data", SETTINGS).list_shards()
    assert str(caught.value).startswith("s3://bucket/data: ")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///data",
        "s3://b",
        "s3://AKIA:canary@bucket/data",
        "s3://bucket/../data",
        "s3://bucket/a//b",
        "s3://bucket/a?X-Amz-Signature=canary",
    ],
)
def test_what_is_no_s3_url_is_refused(url: str) -> None:
    """Credentials in a URL would end in recipes and logs; a path could leave its prefix."""
    with pytest.raises(InputError, match="not of the form s3://bucket/prefix") as caught:
        open_store(url)
    assert "canary" not in str(caught.value)


def test_the_listing_is_what_a_folder_lists(start: Start, folder: Path) -> None:
    """Shards beyond the first page, or those of another data set, would be missed or mixed in."""
    for name in ("b.tar", "c d+é.tar", "e.tar", "f.txt", ".tar", "sub/x.tar", "../data2.tar", "../data2/y.tar"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(SHARD[:512])
    store, proxy = start()
    assert store.list_shards() == LocalStore(folder).list_shards() == ["a.tar", "b.tar", "c d+é.tar", "e.tar"]
    assert len(proxy.requests) == 4, "pages of two entries, the folder sub/ among them"
    assert store.read("c d+é.tar", 0, 9) == SHARD[:9]
    assert len(proxy.requests) == 5, "the listing tells size and ETag"


def test_no_shards_and_no_bucket(start: Start, folder: Path) -> None:
    """A wrong prefix would train on nothing."""
    store, _ = start()
    (folder / "a.tar").unlink()
    with pytest.raises(InputError, match=r"s3://bucket/data: holds no \*.tar shard"):
        store.list_shards()
    with pytest.raises(InputError, match=r"s3://nobucket: status 404 \(NoSuchBucket\)"):
        open_store("s3://nobucket").list_shards()


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (5, 7), (len(SHARD) - 3, 100), (len(SHARD), 1), (0, 1 << 30)])
def test_ranges_end_where_the_shard_ends(start: Start, folder: Path, offset: int, length: int) -> None:
    """The tar reader asks past the end and must see the same as on disk."""
    store, _ = start()
    assert store.read("a.tar", offset, length) == LocalStore(folder).read("a.tar", offset, length)


@pytest.mark.parametrize("name", ["", "..", "../b.tar", "sub/x.tar", "a\0.tar"])
def test_a_name_stays_below_the_prefix(start: Start, name: str) -> None:
    """A manifest from somewhere else could read other data of the bucket."""
    store, proxy = start()
    with pytest.raises(InputError, match="is no name of a shard"):
        store.read(name, 0, 1)
    assert proxy.requests == []


def test_an_index_over_s3_is_the_index_on_disk(start: Start, folder: Path) -> None:
    """Training from S3 would see other samples than training from disk."""
    store, local = start({"action": "cut", "value": 77_777, "method": "GET", "nth": 2})[0], LocalStore(folder)
    (name,) = store.list_shards()
    samples = index_shard(store, name)
    assert samples == index_shard(local, name)
    member = samples[99].members["txt"]
    assert store.read(name, member.offset, member.size) == random.Random(99).randbytes(400)
    assert store.counters.resumed == 1


def test_threads_share_a_store(start: Start) -> None:
    """Two loader threads would get each other's bytes, or counts would be lost."""
    store, proxy = start({"action": "cut", "value": 500, "method": "GET", "probability": 0.3})
    offsets = list(range(0, len(SHARD), 4096))
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda offset: store.read("a.tar", offset, 4096), offsets))
    assert b"".join(parts) == SHARD
    assert store.counters.bytes == len(SHARD)
    assert store.counters.retries == store.counters.resumed == len(proxy.fired) > 0


def test_a_store_travels_to_another_process(start: Start) -> None:
    """Indexing in processes would fail on the first lock or socket."""
    store, _ = start()
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read("a.tar", 3, 9) == SHARD[3:12]
    assert copy.settings == store.settings


def test_nothing_secret_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """botocore writes session tokens at DEBUG, and logs are sent around."""
    caplog.set_level(logging.DEBUG)
    store, proxy = start({"action": "status", "value": 500, "probability": 0.5}, {"action": "cut", "value": 9})
    with pytest.raises(InputError):
        read_all(store)
    assert proxy.fired
    assert proxy.requests[0].headers["x-amz-security-token"] == SECRETS["AWS_SESSION_TOKEN"]
    assert not [secret for secret in (*SECRETS.values(), "X-Amz-Signature") if secret in caplog.text]


def test_a_warning_of_the_http_library_shows_no_address(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 quotes the address, with signature and session token, of an answer whose head it cannot parse."""
    store, proxy = start({"action": "bad_header", "method": "GET"})
    assert store.read("a.tar", 0, 100) == SHARD[:100]
    assert proxy.fired
    assert "X-Amz" not in caplog.text
    assert not caplog.records


def test_moto_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our server and our store would share one misreading of S3."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        for key in ("data/b.tar", "data/a.tar", "data/sub/c.tar", "data/d.txt"):
            client.put_object(Bucket="bucket", Key=key, Body=SHARD)
        store = open_store("s3://bucket/data")
        assert store.list_shards() == ["a.tar", "b.tar"]
        fresh = open_store("s3://bucket/data/")
        assert fresh.size("b.tar") == len(SHARD)
        assert fresh.read("b.tar", 1000, 5000) == store.read("a.tar", 1000, 5000) == SHARD[1000:6000]
        with pytest.raises(InputError, match="status 404"):
            fresh.size("none.tar")
        client.put_object(Bucket="bucket", Key="data/a.tar", Body=SHARD[::-1])
        with pytest.raises(InputError, match="the object changed"):
            store.read("a.tar", 0, 10)
    finally:
        server.stop()


def test_the_server_stores_what_is_sent(start: Start, folder: Path) -> None:
    """Shards that are written to the test server would not be those that are read back."""
    start()
    client = boto3.client("s3", region_name="us-east-1")
    client.put_object(Bucket="bucket", Key="new/x.bin", Body=b"one", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="bucket", Key="new/x.bin", Body=b"two", IfNoneMatch="*")
    upload = {"Bucket": "bucket", "Key": "new/y.bin"}
    upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
    tags = [client.upload_part(**upload, PartNumber=n, Body=bytes([n]) * 10)["ETag"] for n in (1, 2)]
    parts = [{"PartNumber": n, "ETag": tag} for n, tag in zip((1, 2), tags, strict=True)]
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert client.get_object(Bucket="bucket", Key="new/y.bin")["Body"].read() == b"\1" * 10 + b"\2" * 10
    client.delete_object(Bucket="bucket", Key="new/x.bin")
    assert [path.name for path in (folder.parent / "new").iterdir()] == ["y.bin"]


@pytest.mark.parametrize("path", ["/bucket/../../etc/passwd", "/bucket/%2e%2e/secret", "/../secret", "/bucket//secret"])
def test_the_server_stays_in_its_folder(folder: Path, path: str) -> None:
    """Whoever reaches the port could read the disk."""
    (folder.parents[1] / "secret").write_text("canary")
    with in_thread(S3Server(folder.parents[1]).answer) as url, pytest.raises(OSError, match="HTTP Error 400"):
        urlopen(Request(url + path))  # urlopen sends the path as it is


def test_what_is_there(start: Start, folder: Path) -> None:
    """An index would be looked for in vain, or one of other shards would be found."""
    for name in ("a.tar.index", "manifest.json", "manifest.json.bak", "sub/x.tar", "../data2/manifest.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    store, proxy = start(PASSING["503"])
    assert store.list_names() == LocalStore(folder).list_names()
    assert store.list_names().keys() == {"a.tar", "a.tar.index", "manifest.json", "manifest.json.bak"}
    assert (store.find("manifest.json"), store.find("a.tar")) == (13, len(SHARD))
    assert (store.find("manifest"), store.find("sub"), store.find("x.tar")) == (None, None, None)
    assert LocalStore(folder).find("sub") is None
    assert store.etag("a.tar") == store._objects["a.tar"].etag.strip('"') != ""
    assert store.modified("a.tar") is None
    assert proxy.fired


PASSING_PUT: dict[str, Rule] = {
    "503": {"action": "status", "value": 503, "nth": 1},
    "reset": {"action": "reset", "value": -1, "nth": 1},
    "closed before the head": {"action": "cut", "value": -1, "nth": 1},
    "stall": {"action": "stall", "value": -1, "nth": 1},
    "often": {"action": "status", "value": 500, "probability": 0.6},
}


@pytest.mark.parametrize("rule", PASSING_PUT.values(), ids=PASSING_PUT)
@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_a_passing_fault_stores_what_was_sent(start: Start, folder: Path, rule: Rule, kind: str) -> None:
    """A shard would be cut or missing in the bucket, and its maker would think that it is there."""
    store, proxy = start({"method": "PUT", **rule})
    source = folder.parents[1] / "source"
    source.write_bytes(SHARD)
    store.write("new.tar", SHARD if kind == "bytes" else source)
    assert (folder / "new.tar").read_bytes() == SHARD
    assert store.counters.retries == store.retries == len(proxy.fired) > 0
    assert (store.size("new.tar"), store.read("new.tar", 100, 50)) == (len(SHARD), SHARD[100:150])
    store.write("new.tar", b"shorter")
    assert (store.size("new.tar"), store.read("new.tar", 0, 50)) == (7, b"shorter")
    store.remove("new.tar")
    store.remove("new.tar")
    assert store.find("new.tar") is None


def test_what_cannot_be_stored_is_one_line(start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of uploads would end in a stack of botocore, or go on for ever."""
    store, proxy = start({"method": "PUT", "action": "status", "value": 403})
    with pytest.raises(InputError, match=rf"{OBJECT}: status 403 .*s3:PutObject to write") as caught:
        store.write("a.tar", b"x")
    assert not [secret for secret in SECRETS.values() if secret in str(caught.value)]
    assert len(proxy.fired) == 1
    store, _ = start()
    monkeypatch.setattr(s3, "MAX_OBJECT", 10)
    with pytest.raises(InputError, match=rf"{OBJECT}: 11 bytes, one request stores 10 at most; write smaller shards"):
        store.write("a.tar", bytes(11))
    for name in ("", "..", "x/y", "a\nb"):
        with pytest.raises(InputError, match="is no name of a shard"):
            store.write(name, b"")
        with pytest.raises(InputError, match="is no name of a shard"):
            store.remove(name)
    assert (folder / "a.tar").read_bytes() == SHARD


def test_a_store_below_is_a_store_of_its_own(start: Start, folder: Path) -> None:
    """Files of one data set would be taken for those of another, whose sizes were learnt before."""
    (folder / "sub").mkdir()
    (folder / "sub" / "a.tar").write_bytes(SHARD[:1024])
    store, _ = start()
    assert store.size("a.tar") == len(SHARD)
    below = store.below("sub")
    assert (below.root_name, below.prefix) == ("s3://bucket/data/sub", "data/sub/")
    assert read_all(below) == SHARD[:1024]
    assert read_all(store) == SHARD
    assert pickle.loads(pickle.dumps(below)).root_name == below.root_name
