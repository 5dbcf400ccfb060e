"""Ranges over HTTP by the shortest way there is: what a link gives at best."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlsplit

Range = tuple[str, int, int]  # name, first byte, length


def fetch(url: str, ranges: Sequence[Range], *, connections: int) -> int:
    """Bytes received. url: http://host:port/bucket; every connection takes its share of the ranges, one by one."""
    with ThreadPoolExecutor(connections) as pool:
        return sum(pool.map(lambda n: _fetch(url, ranges[n::connections]), range(connections)))


def _fetch(url: str, ranges: Sequence[Range]) -> int:
    place, received, buffer = urlsplit(url), 0, bytearray(1 << 18)
    connection = HTTPConnection(place.netloc)
    for name, begin, length in ranges:
        headers = {"Range": f"bytes={begin}-{begin + length - 1}"}
        connection.request("GET", f"{place.path}/{name}", headers=headers)
        answer = connection.getresponse()
        while part := answer.readinto(buffer):
            received += part
    connection.close()
    return received
