"""Files behind a web server: what comes is what is there, whatever the network and the server do."""

from __future__ import annotations

import json
import pickle
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores import http
from pineco.data_pipeline.stores.http import HttpStore
from pineco.data_pipeline.stores.s3 import S3Settings
from tests.support.faults import FaultProxy, load_rules
from tests.support.s3 import S3Server, in_thread

SETTINGS = S3Settings(connect_timeout=5, read_timeout=5, min_rate=0, first_tries=4)  # a busy machine is no fault
IMPATIENT = S3Settings(connect_timeout=5, read_timeout=0.3, min_rate=0)  # for connections that stall
DATA = random.Random(0).randbytes(256_000)
Rule = dict[str, Any]  # as in JSON
Start = Callable[..., tuple[HttpStore, FaultProxy]]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that the server shows as http://host/site/data."""
    data = tmp_path / "site" / "data"
    data.mkdir(parents=True)
    (data / "a.tar").write_bytes(DATA)
    (data / "empty.txt").touch()
    return data


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """start(*rules): a store behind a proxy with these rules; its pauses take no time."""
    with ExitStack() as stack:
        upstream = stack.enter_context(in_thread(S3Server(folder.parents[1]).answer))

        def begin(*rules: Rule, settings: S3Settings | None = None) -> tuple[HttpStore, FaultProxy]:
            settings = settings or (IMPATIENT if any(rule["action"] == "stall" for rule in rules) else SETTINGS)
            proxy = FaultProxy(upstream, load_rules(json.dumps(rules)))
            url = stack.enter_context(in_thread(proxy.answer))
            return HttpStore(f"{url}/site/data", settings, sleep=lambda seconds: None), proxy

        yield begin


@contextmanager
def serve(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server of the standard library with this handler."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def answering(status: int, headers: dict[str, str], body: bytes = b"") -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler


class Files(SimpleHTTPRequestHandler):
    """Whole files only, over connections that stay open; remembers who asked."""

    protocol_version = "HTTP/1.1"
    clients: ClassVar[set[tuple[str, int]]]

    def do_GET(self) -> None:
        self.clients.add(self.client_address)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def read_all(store: HttpStore, step: int = 50_000) -> bytes:
    return b"".join(store.read("a.tar", offset, step) for offset in range(0, store.size("a.tar"), step))


PASSING: dict[str, Rule] = {
    "reset": {"action": "reset", "value": 10_000, "nth": 3},
    "reset before the head": {"action": "reset", "value": -1, "nth": 2},
    "cut at the first byte": {"action": "cut", "value": 0, "nth": 2},
    "cut": {"action": "cut", "value": 33_333, "nth": 2},
    "cut, often": {"action": "cut", "value": 9_999, "probability": 0.5},
    "closed before the head": {"action": "cut", "value": -1, "nth": 1},
    "stall": {"action": "stall", "value": 20_000, "nth": 2},
    "stall before the head": {"action": "stall", "value": -1, "nth": 1},
    "500": {"action": "status", "value": 500, "nth": 3},
    "503": {"action": "status", "value": 503, "probability": 0.3},
    "wrong Content-Range": {"action": "content_range", "nth": 2},
    "head cut by a bad line": {"action": "bad_header", "nth": 2},
}


@pytest.mark.parametrize("rule", PASSING.values(), ids=PASSING)
def test_a_passing_fault_changes_no_byte(start: Start, rule: Rule) -> None:
    """A shard would lose its tail or hold bytes twice, and be measured so."""
    store, proxy = start({"method": "GET", "key": "*.tar", **rule})
    assert read_all(store) == DATA
    assert {fault.action for fault in proxy.fired} == {rule["action"]}


def test_what_passes_is_counted_and_what_does_not_is_bounded(start: Start) -> None:
    """A server that is down would hold a run for ever, without a word."""
    store, _ = start({"action": "status", "value": 503})
    with pytest.raises(InputError, match=r"a\.tar: gave up after 4 tries, at last: status 503; check the address"):
        store.size("a.tar")
    assert store.retries == 3


def test_a_server_that_ignores_one_range_gives_the_right_bytes(start: Start) -> None:
    """The head of a file would stand where a later part belongs."""
    store, proxy = start({"action": "ignore_range", "key": "*.tar", "nth": 4})
    assert read_all(store) == DATA
    assert len(proxy.fired) == 1
    assert not store.ranges


@pytest.mark.parametrize("name", ["a.tar", "with space é.tar"])
def test_a_server_without_ranges_is_served(name: str, folder: Path) -> None:
    """Data behind the simplest servers could not be measured."""
    (folder / name).write_bytes(DATA)

    class Handler(Files):
        clients: ClassVar[set[tuple[str, int]]] = set()

    with serve(partial(Handler, directory=folder)) as url:
        store = HttpStore(url, SETTINGS)
        assert store.ranges
        assert store.size(name) == len(DATA)
        assert not store.ranges
        assert store.read(name, 100_000, 1000) == DATA[100_000:101_000]
        assert store.read(name, 0, 1 << 30) == DATA
        assert store.find("empty.txt") == 0
        assert store.read("empty.txt", 0, 10) == b""


def test_connections_are_used_again(folder: Path) -> None:
    """Each of hundreds of small files would cost a handshake."""
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"text {number}")

    class Handler(Files):
        clients: ClassVar[set[tuple[str, int]]] = set()

    with serve(partial(Handler, directory=folder)) as url:
        store = HttpStore(url, SETTINGS)
        for number in range(20):
            assert store.read(f"{number}.txt", 0, 100) == f"text {number}".encode()
    assert len(Handler.clients) == 1


def test_sizes_and_absence(start: Start) -> None:
    """A file that is missing would be read as empty, or an empty one be taken for missing."""
    store, _ = start()
    assert (store.find("a.tar"), store.find("empty.txt"), store.find("b.tar")) == (len(DATA), 0, None)
    assert store.below("nowhere").find("a.tar") is None
    assert store.etag("a.tar")
    assert store.modified("a.tar") is None
    assert store.read("a.tar", len(DATA) - 5, 100) == DATA[-5:]
    assert store.read("a.tar", len(DATA) + 5, 100) == b""
    with pytest.raises(InputError, match=r"/site/data/b\.tar: status 404: no such file"):
        store.read("b.tar", 0, 1)


def test_a_file_that_changes_stops_the_run(start: Start, folder: Path) -> None:
    """Half of a shard would be old and half new."""
    store, _ = start()
    assert store.read("a.tar", 0, 10) == DATA[:10]
    (folder / "a.tar").write_bytes(DATA + b"more")
    with pytest.raises(InputError, match=r"a\.tar: the file changed while it was read"):
        store.read("a.tar", 10, 10)
    (folder / "a.tar").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.tar: the file changed while it was read"):
        store.read("a.tar", 10, 10)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (403, {}, "status 403: not public"),
        (401, {}, "status 401: not public"),
        (418, {}, "status 418: check the address"),
        (200, {}, "does not tell how long this file is"),
        (206, {"Content-Range": "bytes 0-0/*", "Content-Length": "1"}, "does not tell how long this file is"),
        (302, {}, "redirects to nowhere"),
        (302, {"Location": "file:///etc/passwd"}, "redirects to file:"),
    ],
)
def test_a_final_answer_is_one_line(status: int, headers: dict[str, str], message: str) -> None:
    """A user would wait for minutes, or see a traceback, where nothing can be had."""
    with serve(answering(status, headers)) as url:
        store = HttpStore(url, SETTINGS, sleep=lambda seconds: pytest.fail("tried again"))
        with pytest.raises(InputError) as caught:
            store.find("a.tar")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{url}/a.tar: ")


def test_compressed_files_are_refused() -> None:
    """Offsets would be those of other bytes."""
    headers = {"Content-Encoding": "gzip", "Content-Length": "3", "ETag": "x"}
    with serve(answering(200, headers, b"abc")) as url, pytest.raises(InputError, match="the server compresses"):
        HttpStore(url, SETTINGS).read("a.tar", 0, 3)


def test_a_hubs_unknown_data_set_is_absent() -> None:
    """A suite on the hub of which one set is missing would end as if a password were needed."""
    with serve(answering(401, {"X-Error-Code": "RepoNotFound"})) as url:
        assert HttpStore(url, SETTINGS).find("a.tar") is None


def test_an_unreachable_server_is_one_line() -> None:
    """A wrong address would be a traceback, or hang."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/data"
        store = HttpStore(url, SETTINGS, sleep=lambda seconds: None)
        with pytest.raises(InputError, match=r"data/a\.tar: gave up after 4 tries, at last: NewConnectionError; check"):
            store.find("a.tar")


def test_redirects_are_followed_but_not_for_ever(start: Start, folder: Path) -> None:
    """A hub that keeps its files on another host could not be read, or a loop would hang the run."""
    with in_thread(S3Server(folder.parents[1]).answer) as elsewhere:
        store, proxy = start({"action": "redirect", "value": elsewhere})
        assert read_all(store) == DATA
        assert len(proxy.fired) == 1 + 6  # the first byte and six ranges: an address that expires is asked for anew
    store, proxy = start()
    with in_thread(proxy.answer) as loop:
        proxy.set_rules(load_rules(json.dumps([{"action": "redirect", "value": loop}])))
        with pytest.raises(InputError, match="more than 5 redirects"):
            store.size("a.tar")


def test_a_redirect_keeps_the_encryption() -> None:
    """Data could be replaced on their way by whoever answers first."""
    with pytest.raises(InputError, match="redirects to http:, which is refused"):
        http._follow("https://host/a.tar", "http://host/a.tar", "https://host/a.tar")
    assert http._follow("https://host/x/a.tar", "../b.tar", "") == "https://host/b.tar"


@pytest.mark.parametrize(
    "url",
    [
        "https://me:canary@host/data",
        "https://host/data?token=canary",
        "https://host/data#canary",
        "https://host/canary/../data",
        "https:///canary",
        "https://host/can\nary",
        "ftp://host/canary",
        "canary",
    ],
)
def test_an_address_with_a_secret_is_refused_unseen(url: str) -> None:
    """Passwords would stand in logs and reports."""
    with pytest.raises(InputError, match="not of the form https://host/folder") as caught:
        HttpStore(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("name", ["../a.tar", "..", "", "a\n.tar", "x/a.tar"])
def test_a_name_does_not_lead_out_of_the_folder(start: Start, name: str) -> None:
    """A name would read another file than its store holds."""
    store, proxy = start()
    with pytest.raises(InputError, match="is no name of a shard"):
        store.find(name)
    assert not proxy.requests


def test_what_a_web_server_cannot_do_is_said(start: Start) -> None:
    """Shards could be taken for absent where they cannot be listed, or for written."""
    store, _ = start()
    for call in (store.list_shards, store.list_names, partial(store.write, "a", b""), partial(store.remove, "a")):
        with pytest.raises(InputError, match="a web server; use a folder or s3://bucket/prefix"):
            call()


def test_threads_share_a_store_and_processes_get_their_own(start: Start) -> None:
    """Threads would read each other's bytes, or a worker process could not be started."""
    store, _ = start()
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda offset: store.read("a.tar", offset, 5000), range(0, len(DATA), 5000)))
    assert b"".join(parts) == DATA
    other = pickle.loads(pickle.dumps(store))
    assert (other.root_name, other.read("a.tar", 7, 3)) == (store.root_name, DATA[7:10])


def test_a_body_that_trickles_is_given_up(start: Start) -> None:
    """One slow connection would hold an evaluation for hours."""
    settings = S3Settings(connect_timeout=5, read_timeout=0.2, min_rate=1 << 40, tries=2, first_tries=4)
    store, _ = start({"action": "rate", "value": 100_000, "key": "*.tar"}, settings=settings)
    with pytest.raises(InputError, match=r"gave up after 2 tries, at last: (less than|ReadTimeoutError)"):
        store.read("a.tar", 0, len(DATA))
