"""Files behind an http(s):// address, read-only: every range checked, resumed where it was cut, retried as in S3."""

from __future__ import annotations

import functools
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, SSLError

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores.names import check_name
from pineco.data_pipeline.stores.retry import NetworkSettings, PassingError, Retry, persist

Result = TypeVar("Result")
_HOPS = 5  # redirects of one request: a hub sends its files from another host
_CHUNK = 1 << 18  # bytes taken from a connection at once at most; what came before a cut is kept
_SMALL = 1 << 14  # bytes that are read rather than opening a connection anew
_REDIRECTS, _GONE, _CLOSED = (301, 302, 303, 307, 308), (404, 410), (401, 403)
_UNKNOWN = ("RepoNotFound", "EntryNotFound")  # a hub's own codes: it answers 401 for a data set that it does not have
_ADVICE = "check the address and the network, and start again"


@dataclass(frozen=True)
class _File:
    size: int  # bytes
    version: str  # what changes with the content: the ETag, else the date; empty where the server gives neither


class _RefusedError(Exception):
    """A status that stays: no such file, not allowed."""

    def __init__(self, status: int, *, absent: bool) -> None:
        super().__init__(f"status {status}")
        self.status, self.absent = status, absent


class HttpStore:
    """`http(s)://host/folder` as a store of files that are named by their reader: a web server gives no listing.

    A file's size and ETag (else its date) are learnt once, and every read insists on them: a file that changes in the
    course of a run stops the run. A server that ignores ranges is served, too, at the cost of reading what lies before.
    Follows at most five redirects, never from https to http. Safe for several threads; not to be used across a fork.
    """

    def __init__(
        self,
        root: str,
        settings: NetworkSettings | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] | None = None,
    ) -> None:
        """draw: uniform on [0, 1), for the pauses; sleep and clock in seconds."""
        self.root, self.settings = _check_url(root), settings or NetworkSettings()
        # A generator of its own: the global one is seeded by trainers, and retries must not move it.
        self._sleep, self._clock, self._draw = sleep, clock, draw or random.Random().random
        self._files: dict[str, _File] = {}
        self._ranges = True  # until the server sends a whole file where a part was asked for
        self._lock, self._counts = threading.Lock(), Counter[str]()
        parts = urlsplit(self.root)
        self._pool = _connect(parts.scheme, parts.hostname or "", self.settings, os.getpid())

    def __reduce__(self) -> tuple[type[HttpStore], tuple[str, NetworkSettings]]:
        return HttpStore, (self.root, self.settings)

    def below(self, folder: str) -> HttpStore:
        """The store of a folder, with the same settings."""
        return HttpStore(f"{self.root}/{folder}", self.settings, sleep=self._sleep, clock=self._clock, draw=self._draw)

    @property
    def root_name(self) -> str:
        return self.root

    @property
    def retries(self) -> int:
        return self._counts["retries"]

    @property
    def ranges(self) -> bool:
        """Whether the server has sent parts of files so far, rather than whole ones."""
        return self._ranges

    def find(self, name: str) -> int | None:
        """Bytes of a file, None where there is none of that name."""
        try:
            return self._file(name).size
        except _RefusedError as error:
            if error.absent:
                return None
            _refuse(error, self.where(name))

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return self._known(name).size

    def etag(self, name: str) -> str:
        """Of the file as it was found first, else its date; empty where the server gives neither."""
        return self._known(name).version

    def modified(self, name: str) -> int | None:
        return None

    def where(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of a file from `offset`; fewer only where the file ends."""
        found = self._known(name)
        end = min(offset + length, found.size)
        received = BytesIO()
        if offset < end:
            try:
                self._persist(lambda: self._receive(name, found, offset, end, received), name, self.settings.tries)
            except _RefusedError as error:
                _refuse(error, self.where(name))
        return received.getvalue()

    def list_shards(self) -> list[str]:
        self._no("list")

    def list_names(self) -> dict[str, int]:
        self._no("list")

    def write(self, name: str, data: bytes | Path) -> None:
        self._no("write to")

    def remove(self, name: str) -> None:
        self._no("remove from")

    def _no(self, what: str) -> NoReturn:
        raise InputError(f"{self.root}: cannot {what} a web server; use a folder or s3://bucket/prefix")

    def _known(self, name: str) -> _File:
        try:
            return self._file(name)
        except _RefusedError as error:
            _refuse(error, self.where(name))

    def _file(self, name: str) -> _File:
        """Size and version, learnt from a request for the first byte: not every server answers HEAD."""
        if name not in self._files:
            found = self._persist(lambda: self._probe(name), name, self.settings.first_tries)
            self._files.setdefault(name, found)
        return self._files[name]

    def _probe(self, name: str) -> _File:
        with closing(self._get(name, 0, 1)) as answer:
            if answer.status == 416:  # only an empty file has no first byte
                _let_go(answer)
                return _File(0, _version(answer))
            match = re.fullmatch(r"bytes 0-0/(\d+)", answer.headers.get("Content-Range", ""))
            size = match[1] if answer.status == 206 and match else answer.headers.get("Content-Length", "")
            if answer.status not in (200, 206) or not size.isdecimal() or (answer.status == 206 and not match):
                raise InputError(f"{self.where(name)}: the server does not tell how long this file is; copy the data")
            self._ranges = self._ranges and answer.status == 206
            _let_go(answer)
            return _File(int(size), _version(answer))

    def _receive(self, name: str, found: _File, offset: int, end: int, received: BytesIO) -> None:
        """One request for what is still missing of bytes `offset` to `end`, appended to `received` as it comes."""
        start = offset + received.tell()
        with closing(self._get(name, start, end)) as answer:
            _check(answer, self.where(name), found, start, end)
            if answer.status == 200:
                self._ranges = False
            skip, began, came = start if answer.status == 200 else 0, self._clock(), 0
            while missing := skip + end - offset - received.tell():
                self._check_rate(came, self._clock() - began)
                data = answer.read1(min(missing, _CHUNK))
                if not data:
                    raise PassingError(f"the connection closed {missing} bytes early")
                came += len(data)
                kept, skip = data[skip:], max(0, skip - len(data))
                received.write(kept)
            _let_go(answer)

    def _check_rate(self, received: int, seconds: float) -> None:
        if seconds > self.settings.read_timeout and received < self.settings.min_rate * seconds:
            raise PassingError(f"less than {self.settings.min_rate} bytes/s")

    def _get(self, name: str, start: int, end: int) -> urllib3.BaseHTTPResponse:
        """The answer to a request for a range, body unread; raises for statuses other than 200, 206 and 416."""
        url = f"{self.root}/{quote(check_name(name))}"
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity", "User-Agent": "pineco"}
        for _ in range(_HOPS + 1):
            answer = self._pool.request(
                "GET", url, headers=headers, redirect=False, retries=False, preload_content=False, decode_content=False
            )
            if answer.status not in _REDIRECTS:
                return _require(answer)
            _let_go(answer)
            url = _follow(url, answer.headers.get("Location", ""), self.where(name))
        raise InputError(f"{self.where(name)}: more than {_HOPS} redirects; check the address")

    def _persist(self, attempt: Callable[[], Result], name: str, tries: int) -> Result:
        retry = Retry(
            settings=self.settings,
            catch=(PassingError, HTTPError, UnicodeError),
            judge=_judge,
            sleep=self._sleep,
            draw=self._draw,
            retried=self._count_retry,
            advice=_ADVICE,
        )
        return persist(attempt, self.where(name), tries, retry)

    def _count_retry(self) -> None:
        with self._lock:
            self._counts["retries"] += 1


def _check_url(url: str) -> str:
    """The address without a slash at its end; raises InputError for one that may hold a secret, or that is none."""
    match = re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+(/[^?#\s\\\x00-\x1f]*)?", url)
    path = (match[1] or "") if match else ""
    if not match or any(part in (".", "..") for part in path.split("/")):
        # Not repeated in the message: people write passwords and tokens into addresses.
        raise InputError("not of the form https://host/folder: without user, password, '?' and '#'")
    host = url[: len(url) - len(path)]
    return host + quote(path, safe="/%:@+,;=~!$&'()*").rstrip("/")


def _follow(url: str, location: str, where: str) -> str:
    """Where a redirect leads; raises InputError for one that gives up encryption, or leaves http."""
    target = urljoin(url, location)
    scheme = urlsplit(target).scheme if location else ""
    if scheme not in ("http", "https") or (scheme == "http" and url.startswith("https:")):
        raise InputError(
            f"{where}: redirects to {scheme + ':' if scheme else 'nowhere'}, which is refused; name the last address"
        )
    return target


def _require(answer: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
    """The answer itself; its body is thrown away where it is an error's."""
    status = answer.status
    if status in (200, 206, 416):
        return answer
    _let_go(answer)
    if status >= 500 or status in (408, 429):
        raise PassingError(f"status {status}")
    raise _RefusedError(status, absent=status in _GONE or answer.headers.get("X-Error-Code") in _UNKNOWN)


def _let_go(answer: urllib3.BaseHTTPResponse) -> None:
    """Gives the connection back for the next request, or closes it where much of the body would have to be read."""
    length = answer.headers.get("Content-Length", "")
    came = answer.tell() if hasattr(answer, "tell") else 0
    if length.isdecimal() and int(length) - came <= _SMALL:
        answer.drain_conn()
    else:
        answer.close()


def _version(answer: urllib3.BaseHTTPResponse) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _check(answer: urllib3.BaseHTTPResponse, where: str, found: _File, start: int, end: int) -> None:
    """Raises unless the answer holds bytes `start` to `end` of the file that was found at first."""
    headers = answer.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(f"{where}: the server compresses its files; have it send them as they are")
    given = headers.get("Content-Range", "") if answer.status == 206 else headers.get("Content-Length", "")
    size = given.rpartition("/")[2]
    if answer.status == 416 or _version(answer) != found.version or (size.isdecimal() and int(size) != found.size):
        raise InputError(f"{where}: the file changed while it was read; start again, and leave the shards alone")
    if given != (f"bytes {start}-{end - 1}/{found.size}" if answer.status == 206 else str(found.size)):
        raise PassingError("the answer holds another range than was asked for")


def _judge(error: Exception, where: str) -> str:
    """Why another try may succeed; raises where none can. Repeats nothing that a server wrote."""
    if isinstance(error, PassingError):
        return str(error)
    if isinstance(error, SSLError) and "CERTIFICATE" in str(error):
        raise InputError(f"{where}: the server's certificate is not trusted; check the address") from None
    if isinstance(error, HTTPError) and not isinstance(error, LocationParseError):
        return type(error).__name__
    raise InputError(f"{where}: no address of a web server") from None


def _refuse(error: _RefusedError, where: str) -> NoReturn:
    advice = "check the address"
    if error.absent:
        advice = "no such file; check the address"
    elif error.status in _CLOSED:
        advice = "not public; only open data is read over http, copy the rest or use s3://"
    raise InputError(f"{where}: status {error.status}: {advice}") from None


@functools.cache
def _connect(scheme: str, host: str, settings: NetworkSettings, process: int) -> urllib3.PoolManager:
    """Connections of this process to a host, through the proxy that the environment names for it, if any.

    Shared by all stores: a suite has a store for each folder of each data set.
    """
    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    timeout = urllib3.Timeout(connect=settings.connect_timeout, read=settings.read_timeout)
    if proxy:
        return urllib3.ProxyManager(proxy, timeout=timeout, maxsize=settings.connections)
    return urllib3.PoolManager(timeout=timeout, maxsize=settings.connections)
