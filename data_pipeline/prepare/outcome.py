"""What becomes of one item of a source: a sample of a shard, or a rejection that says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """One sample. metadata, where there is any, becomes KEY.json with the sample's key first."""

    files: Mapping[str, bytes]  # by extension, in the order of the shard
    metadata: Mapping[str, object] | None = None
    key: str | None = None  # None: by shard and place in it


@dataclass(frozen=True)
class Rejected:
    """One item that is left out."""

    path: str  # within the source
    reason: str  # one of few, to be counted
    detail: str = ""


Outcome = Kept | Rejected


class RejectError(Exception):
    """Raised anywhere below an item; whoever goes through the items turns it into a Rejected."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def at(self, path: str) -> Rejected:
        return Rejected(path, self.reason, self.detail)
