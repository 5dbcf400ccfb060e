"""What an object of a store may be called."""

from __future__ import annotations

import re

from pineco.data_pipeline.errors import InputError

_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")  # bytes that are no UTF-8 become such surrogates


def check_name(name: str) -> str:
    """`name` itself; raises InputError for one that could lead out of the store, break a line or is no UTF-8."""
    if name in ("", ".", "..") or _NO_NAME.search(name):
        raise InputError(f"{name!r} is no name of a shard; names are taken from the listing, without folders")
    return name
