"""A small S3 server over a folder, for tests and for trying things: `python -m tests.support.s3 --root DIR`.

Reads no credentials. Objects are plain files DIR/BUCKET/KEY. Speaks GET with Range, HEAD, PUT, multipart upload,
DELETE, ListObjectsV2, If-Match and If-None-Match; ETags are opaque (a file's identity, time and size).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

MAX_HEAD = 1 << 16  # bytes of a request's or an answer's head


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # as sent: quoted path and query
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class S3Error(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """(first line, headers by lower-case name) of an HTTP message."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def head_bytes(status: int, headers: dict[str, object]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _unchunk(reader: asyncio.StreamReader) -> bytes:
    """The data of a chunked body; aws-chunked has the same frames, with a signature after the size."""
    data = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        data += await reader.readexactly(size)
        await reader.readexactly(2)
    while (await reader.readline()).strip():
        pass  # trailers
    return bytes(data)


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request of a connection, None at its end."""
    try:
        first, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = first.split(" ")
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _unchunk(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    if "aws-chunked" in headers.get("content-encoding", "") or "x-amz-decoded-content-length" in headers:
        framed = asyncio.StreamReader()
        framed.feed_data(body)
        framed.feed_eof()
        body = await _unchunk(framed)
    return Request(method, target, headers, body)


async def _serve(answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A client that leaves in mid-answer is no error of a server.
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
        while (request := await read_request(reader, writer)) and not writer.is_closing():
            await answer(request, writer)
            await writer.drain()


async def _listen(answer: Answer, port: int) -> asyncio.Server:
    tasks = set()  # the loop itself holds only weak references

    def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_serve(answer, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return await asyncio.start_server(connect, "127.0.0.1", port, limit=MAX_HEAD)


def _url(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.contextmanager
def in_thread(answer: Answer) -> Iterator[str]:
    """Serves connections on an event loop in a thread; yields http://127.0.0.1:PORT."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server", daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(_listen(answer, 0), loop).result()
    try:
        yield _url(server)
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class S3Server:
    """Answers S3 requests from a folder; page: objects in one page of a listing at most."""

    def __init__(self, root: Path, page: int = 1000) -> None:
        self.root, self.page = root.resolve(), page
        self.uploads = self.root / ".uploads"  # no bucket's name starts with a dot
        self.uploads.mkdir(exist_ok=True)

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        try:
            await self._route(request, writer)
        except S3Error as error:
            body = f"<Error><Code>{error.code}</Code><Message>{error.code}</Message></Error>"
            self._send(request, writer, error.status, body=body)

    async def _route(self, request: Request, writer: asyncio.StreamWriter) -> None:
        bucket, key = self._resolve(request.path)
        query, method = request.query, request.method
        if method == "PUT" and key is None:
            bucket.mkdir(exist_ok=True)
            self._send(request, writer, 200)
        elif not bucket.is_dir():
            raise S3Error(404, "NoSuchBucket")
        elif key is None:
            self._send(request, writer, 200, body="" if method == "HEAD" else self._list(bucket, query))
        elif "uploads" in query or "uploadId" in query:
            self._multipart(request, writer, bucket, key)
        elif method == "PUT":
            self._send(request, writer, 200, {"ETag": self._write(request, key, [request.body])})
        elif method == "DELETE":
            key.unlink(missing_ok=True)
            self._send(request, writer, 204)
        else:
            await self._read(request, writer, key)

    def _resolve(self, path: str) -> tuple[Path, Path | None]:
        """(bucket's folder, object's file or None) of a URL's path; refuses every way out of the root."""
        bucket, _, key = path.lstrip("/").partition("/")
        unsafe = any(part in ("", ".", "..") for part in key.rstrip("/").split("/") if key) or "\0" in key
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{2,62}", bucket) or unsafe:
            raise S3Error(400, "InvalidBucketName" if not unsafe else "InvalidObjectName")
        folder = self.root / bucket
        file = folder / key
        if not file.resolve().is_relative_to(self.root / bucket):  # a link that leads out
            raise S3Error(403, "AccessDenied")
        return folder, file if key else None

    def _list(self, bucket: Path, query: dict[str, str]) -> str:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted(str(p.relative_to(bucket)) for p in bucket.rglob("*") if p.is_file())
        entries: dict[str, Path | None] = {}  # common prefixes hold None
        for key in (k for k in keys if k.startswith(prefix)):
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entries[prefix + head + cut if cut else key] = None if cut else bucket / key
        names = [name for name in sorted(entries) if name > after]
        limit = min(self.page, int(query.get("max-keys", self.page)))
        more, names = len(names) > limit, names[:limit]
        show = quote if query.get("encoding-type") == "url" else escape
        xml = [_entry(show(name), entries[name]) for name in names]
        token = f"<NextContinuationToken>{escape(names[-1])}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if show is quote else ""
        head = f"<KeyCount>{len(names)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}{encoding}"
        return f"<ListBucketResult>{head}{''.join(xml)}</ListBucketResult>"

    async def _read(self, request: Request, writer: asyncio.StreamWriter, file: Path) -> None:
        if not file.is_file():
            raise S3Error(404, "NoSuchKey")
        with file.open("rb") as data:
            size, tag = os.fstat(data.fileno()).st_size, _etag(file)
            if request.headers.get("if-match", tag) not in (tag, "*"):
                raise S3Error(412, "PreconditionFailed")
            start, end = _span(request.headers.get("range", ""), size)
            headers: dict[str, object] = {"ETag": tag, "Accept-Ranges": "bytes", "Content-Length": end - start}
            if ranged := "range" in request.headers:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            writer.write(head_bytes(206 if ranged else 200, headers))
            if request.method == "GET" and end > start:
                await writer.drain()
                loop = asyncio.get_running_loop()
                await loop.sendfile(writer.transport, data, start, end - start)

    def _multipart(self, request: Request, writer: asyncio.StreamWriter, bucket: Path, key: Path) -> None:
        query, method = request.query, request.method
        if method == "POST" and "uploads" in query:
            upload = uuid.uuid4().hex
            (self.uploads / upload).mkdir()
            names = f"<Bucket>{bucket.name}</Bucket><Key>{escape(str(key.relative_to(bucket)))}</Key>"
            xml = f"<InitiateMultipartUploadResult>{names}<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self._send(request, writer, 200, body=xml)
        folder = self.uploads / query["uploadId"]
        if not re.fullmatch("[0-9a-f]{32}", query["uploadId"]) or not folder.is_dir():
            raise S3Error(404, "NoSuchUpload")
        if method == "PUT":
            part = folder / str(int(query["partNumber"]))
            part.write_bytes(request.body)
            return self._send(request, writer, 200, {"ETag": _etag(part)})
        parts = [folder / n for n in re.findall(r"<PartNumber>(\d+)</PartNumber>", request.body.decode())]
        if not all(part.is_file() for part in parts):
            raise S3Error(400, "InvalidPart")
        tag = self._write(request, key, (p.read_bytes() for p in parts)) if method == "POST" else ""
        for part in folder.iterdir():
            part.unlink()
        folder.rmdir()
        xml = f"<CompleteMultipartUploadResult><ETag>{escape(tag)}</ETag></CompleteMultipartUploadResult>"
        return self._send(request, writer, 200 if tag else 204, body=xml if tag else "")

    def _write(self, request: Request, file: Path, data: Iterator[bytes] | list[bytes]) -> str:
        if request.headers.get("if-none-match") == "*" and file.exists():
            raise S3Error(412, "PreconditionFailed")
        if request.headers.get("if-match") not in (None, _etag(file) if file.exists() else ""):
            raise S3Error(412, "PreconditionFailed")
        file.parent.mkdir(parents=True, exist_ok=True)
        new = self.uploads / uuid.uuid4().hex
        with new.open("wb") as out:
            out.writelines(data)
        new.replace(file)
        return _etag(file)

    @staticmethod
    def _send(
        request: Request,
        writer: asyncio.StreamWriter,
        status: int,
        headers: dict[str, object] | None = None,
        body: str = "",
    ) -> None:
        data = body.encode()
        fields = {"Content-Length": len(data), "Content-Type": "application/xml"} | (headers or {})
        writer.write(head_bytes(status, fields) + (b"" if request.method == "HEAD" or status == 204 else data))


def _etag(file: Path) -> str:
    facts = file.stat()
    return f'"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"'


def _entry(name: str, file: Path | None) -> str:
    if file is None:
        return f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
    size = f"<Size>{file.stat().st_size}</Size>"
    return f"<Contents><Key>{name}</Key><ETag>{escape(_etag(file))}</ETag>{size}</Contents>"


def _span(header: str, size: int) -> tuple[int, int]:
    """[start, end) of a Range header; the whole object for none."""
    if not header:
        return 0, size
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if not match or not (match[1] or match[2]):
        raise S3Error(416, "InvalidRange")
    start = int(match[1]) if match[1] else max(0, size - int(match[2]))
    end = min(size, int(match[2]) + 1) if match[1] and match[2] else size
    if not start < end:
        raise S3Error(416, "InvalidRange")
    return start, end


async def _run(server: S3Server, port: int, command: list[str]) -> int:
    """Serves until the command ends, or for ever where there is none; returns the command's exit code."""
    listening = await _listen(server.answer, port)
    settings = {
        "AWS_ENDPOINT_URL": _url(listening),
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
    }
    if command:
        process = await asyncio.create_subprocess_exec(*command, env=os.environ | settings)
        return await process.wait()
    print(f"# serves the folders of {server.root} as buckets; stop with Ctrl-C")
    print("export", *(f"{name}={value}" for name, value in settings.items()), flush=True)
    await listening.serve_forever()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="A small S3 server over a folder.")
    parser.add_argument("--root", type=Path, required=True, help="its folders are the buckets")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("command", nargs="*", help="after --: run with the server in its environment")
    arguments = parser.parse_args()
    try:
        return asyncio.run(_run(S3Server(arguments.root), arguments.port, arguments.command))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
