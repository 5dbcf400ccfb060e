"""GETs of byte ranges that cost little computing: one signed address serves many requests.

boto3's get_object builds, signs and parses every request anew: 0.73 ms of a core for 10 kB over loopback, this 0.23 ms.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ClientError

_REUSED = 300.0  # seconds; less than any credentials of a role have left when botocore hands them out
_VALID = 3600  # seconds from signing, for clocks that are slow
_KEPT = 4096  # addresses
_ERROR_BODY, _ERROR_SECONDS = 1 << 16, 5.0  # of an answer to a failed request that are looked at
_AGENT = "pineco"


class RangeGetter:
    """Ranges of the objects of one bucket, through a client's own connections, proxies and certificates."""

    def __init__(self, client: Any, bucket: str, clock: Callable[[], float] = time.time) -> None:
        """client: boto3's for S3, with signature version 4; clock: in seconds, the one that signatures are valid by."""
        self._client, self._bucket, self._clock = client, bucket, clock
        self._signed: dict[str, tuple[str, float]] = {}  # address and time of signing, by key

    def get(self, key: str, start: int, end: int, etag: str) -> AWSResponse:
        """The answer to one request for bytes `start` to `end` of the version `etag`, its body still to be read.

        The signature stands in the address, so range and version are not part of it. Follows no redirect. Raises what
        botocore raises: ClientError for every status from 300.
        """
        headers = {"Range": f"bytes={start}-{end - 1}", "If-Match": etag, "User-Agent": _AGENT}
        request = AWSPreparedRequest("GET", self._address(key), headers, None, stream_output=True)
        # Private, but a session of our own would have to repeat how botocore finds proxies and certificates.
        answer = self._client._endpoint.http_session.send(request)
        if answer.status_code >= 300:
            raise _refusal(answer)
        return answer

    def _address(self, key: str) -> str:
        address, signed = self._signed.get(key, ("", 0.0))
        now = self._clock()
        if not address or not 0 <= now - signed <= _REUSED:
            what = {"Bucket": self._bucket, "Key": key}
            address = self._client.generate_presigned_url("get_object", Params=what, ExpiresIn=_VALID)
            if len(self._signed) >= _KEPT:
                self._signed.clear()
            self._signed[key] = address, now
        return address


def _refusal(answer: AWSResponse) -> ClientError:
    """What get_object raises; of the body only the code is kept, for it may quote the request."""
    with closing(answer.raw):  # there may be more of it
        code = re.search(rb"<Code>([A-Za-z]{1,40})</Code>", _beginning(answer.raw))
    metadata = {"HTTPStatusCode": answer.status_code, "HTTPHeaders": {k.lower(): v for k, v in answer.headers.items()}}
    return ClientError({"Error": {"Code": code[1].decode() if code else ""}, "ResponseMetadata": metadata}, "GetObject")


def _beginning(raw: Any) -> bytes:
    """Of a body that may be long, or come byte by byte: as much as names the error."""
    body, end = b"", time.monotonic() + _ERROR_SECONDS
    while b"</Code>" not in body and len(body) < _ERROR_BODY and time.monotonic() < end:
        part = raw.read1(_ERROR_BODY - len(body))
        if not part:
            break
        body += part
    return body
