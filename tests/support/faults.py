"""An HTTP proxy that breaks answers by rule, so that tests can meet what a network and a busy service do.

Rules are JSON, a list of objects with the fields of `Rule`: [{"action": "status", "value": 503, "probability": 0.3}].
The first rule that fires decides; `delay` rules add up and let the next ones decide. Every fault is logged in `fired`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tests.support.s3 import MAX_HEAD, Request, head_bytes, in_thread, parse_head

CHUNK = 1 << 18  # bytes
_BREAKS = ("cut", "reset", "stall")
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
Action = Literal[
    "status",  # answers with status `value` at once
    "delay",  # waits `value` seconds first
    "rate",  # sends the body at `value` bytes/s
    "cut",  # closes the connection after `value` bytes of the body; here and below -1: before the head
    "reset",  # the same with a TCP reset
    "stall",  # sends nothing more after `value` bytes of the body
    "flip",  # inverts byte `value` of the body
    "content_range",  # names a range that starts one byte later
    "ignore_range",  # sends the whole object with status 200
    "etag",  # names another ETag
    "bad_header",  # ends the head with a line that is no header
    "redirect",  # 301 to the host `value`, "http://host:port"
]


@dataclass(frozen=True, kw_only=True)
class Rule:
    action: Action
    value: float | str = 0
    method: str = "*"
    key: str = "*"  # glob over the URL's path, "/bucket/key"
    query: str = "*"  # glob over the URL's query
    nth: int | None = None  # fires at this match only, from 1
    probability: float = 1.0

    def matches(self, request: Request) -> bool:
        fits = fnmatchcase(request.path, self.key) and fnmatchcase(urlsplit(request.target).query, self.query)
        return fits and self.method in ("*", request.method)


@dataclass(frozen=True)
class Fault:
    action: Action
    method: str
    path: str


def load_rules(text: str) -> list[Rule]:
    return [Rule(**fields) for fields in json.loads(text)]


class FaultProxy:
    """Passes requests on to `upstream` (http://host:port); link_rate: bytes/s of all bodies together."""

    def __init__(self, upstream: str, rules: Sequence[Rule], seed: int = 0, link_rate: float | None = None) -> None:
        self.upstream, self.seed, self.link_rate = urlsplit(upstream), seed, link_rate
        self.requests: list[Request] = []
        self.fired: list[Fault] = []
        self.set_rules(rules)
        self._link_free_at = 0.0  # seconds on the loop's clock

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """From the next request on, in place of those before; their matches are counted from 1."""
        self._rules = [(rule, count(1)) for rule in rules]

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.requests.append(request)
        rule = await self._draw(request)
        action, value = (rule.action, rule.value) if rule else (None, 0)
        if action == "status":
            await self._refuse(writer, request, int(value))
        elif action == "redirect":
            await self._refuse(writer, request, 301, {"Location": f"{value}{request.target}"})
        else:
            await self._forward(request, writer, action, float(value))

    async def _draw(self, request: Request) -> Rule | None:
        for number, (rule, matches) in enumerate(self._rules):
            if not rule.matches(request):
                continue
            hit = next(matches)
            drawn = random.Random(f"{self.seed} {number} {hit}").random()  # the same whatever other rules do
            if rule.nth not in (None, hit) or drawn >= rule.probability:
                continue
            self.fired.append(Fault(rule.action, request.method, request.path))
            if rule.action != "delay":
                return rule
            await asyncio.sleep(float(rule.value))
        return None

    async def _refuse(
        self, writer: asyncio.StreamWriter, request: Request, status: int, more: dict[str, object] | None = None
    ) -> None:
        # Quotes the request, as some services do: a reader must not pass that on.
        quoted = request.headers.get("authorization", "") + request.headers.get("x-amz-security-token", "")
        code = _CODES.get(status, "PermanentRedirect" if status == 301 else "Error")
        body = f"<Error><Code>{code}</Code><Message>{quoted}</Message></Error>".encode()
        writer.write(
            head_bytes(status, {"Content-Length": len(body), "x-amz-bucket-region": "eu-west-9"} | (more or {}))
        )
        writer.write(b"" if request.method == "HEAD" else body)

    async def _forward(
        self, request: Request, writer: asyncio.StreamWriter, action: Action | None, value: float
    ) -> None:
        reader, upstream = await asyncio.open_connection(self.upstream.hostname, self.upstream.port, limit=MAX_HEAD)
        with contextlib.closing(upstream):
            dropped = {"connection", "expect", "transfer-encoding", *(["range"] if action == "ignore_range" else [])}
            headers = {k: v for k, v in request.headers.items() if k not in dropped}
            if request.body:
                headers["content-length"] = str(len(request.body))
            lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
            upstream.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + request.body)
            first, answer = parse_head(await reader.readuntil(b"\r\n\r\n"))
            status, length = int(first.split(" ")[1]), int(answer.get("content-length", 0))
            answer.pop("connection", None)
            if action == "etag":
                answer["etag"] = '"another"'
            if action == "content_range":
                start, _, rest = answer["content-range"].removeprefix("bytes ").partition("-")
                answer["content-range"] = f"bytes {int(start) + 1}-{rest}"
            if action in _BREAKS and value < 0:
                await self._break(writer, action)
                return
            head = head_bytes(status, dict(answer))
            writer.write(head[:-2] + b"no header\r\n\r\n" if action == "bad_header" else head)
            if request.method != "HEAD":
                await self._send_body(reader, writer, length, action, value)

    async def _send_body(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        length: int,
        action: Action | None,
        value: float,
    ) -> None:
        end, sent = min(length, int(value)) if action in _BREAKS else length, 0
        while sent < end:
            data = await reader.read(min(end - sent, max(1, int(value / 20)) if action == "rate" else CHUNK))
            if not data:
                writer.close()  # upstream broke off
                return
            if action == "flip" and sent <= value < sent + len(data):
                at = int(value) - sent
                data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
            await self._pace(len(data), value if action == "rate" else None)
            writer.write(data)
            await writer.drain()
            sent += len(data)
        if action in _BREAKS:
            await self._break(writer, action)

    async def _pace(self, size: int, rate: float | None) -> None:
        """Waits as long as `size` bytes take at this rate (bytes/s), and for their turn on the shared link."""
        if rate:
            await asyncio.sleep(size / rate)
        if self.link_rate:
            now = asyncio.get_running_loop().time()
            self._link_free_at = max(now, self._link_free_at) + size / self.link_rate
            await asyncio.sleep(self._link_free_at - now)

    @staticmethod
    async def _break(writer: asyncio.StreamWriter, action: Action | None) -> None:
        if action == "stall":
            await asyncio.sleep(3600)  # until the proxy is stopped
        if action == "reset":
            await asyncio.sleep(0.02)  # a reset discards what the client has not read yet
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A proxy that breaks answers by rule.")
    parser.add_argument("--upstream", required=True, help="http://host:port")
    parser.add_argument("--rules", type=Path, required=True, help="a JSON file, see Rule")
    parser.add_argument("--link-rate", type=float, help="bytes/s of all bodies together")
    arguments = parser.parse_args()
    proxy = FaultProxy(arguments.upstream, load_rules(arguments.rules.read_text()), link_rate=arguments.link_rate)
    with in_thread(proxy.answer) as url:
        input(f"export AWS_ENDPOINT_URL={url}   # Enter stops the proxy\n")
    print(*proxy.fired, sep="\n")


if __name__ == "__main__":
    main()
