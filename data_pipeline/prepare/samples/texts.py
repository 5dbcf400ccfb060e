"""Captions and metadata of image-text pairs, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pineco.data_pipeline.prepare.outcome import RejectError

MAX_TEXT = 1 << 22  # bytes of a caption or of metadata; img2dataset's json may hold all EXIF tags of an image
NO_CAPTION, EMPTY_CAPTION, NO_UTF8 = "no caption", "empty caption", "caption is not UTF-8"
BAD_METADATA = "json is damaged"
_DROPPED = ("key", "exif", "status", "error_message")
"""Not kept of img2dataset's metadata: keys are numbered anew, the EXIF is large and tells where people live."""


def clean_caption(text: str | bytes) -> str:
    """The caption without white space around it; raises RejectError where it is no UTF-8 text or nothing is left."""
    try:
        # Text may hold lone surrogates: of a table that is no UTF-8, or of an escape in JSON.
        caption = (text if isinstance(text, bytes) else text.encode()).decode().strip()
    except UnicodeError as error:
        raise RejectError(NO_UTF8, str(error)) from None
    if not caption:
        raise RejectError(EMPTY_CAPTION)
    return caption


def parse_metadata(data: bytes) -> dict[str, object]:
    """The fields that are kept; `captions`, if there, is a list of clean captions. Raises RejectError."""
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
        if not isinstance(found, dict):
            raise TypeError("no object")
        kept = {name: value for name, value in found.items() if name not in _DROPPED}
        if "captions" in kept:
            kept["captions"] = _clean_list(kept["captions"])
    except (ValueError, TypeError, RecursionError) as error:
        raise RejectError(BAD_METADATA, str(error)) from None
    return kept


def choose_caption(text: bytes | None, metadata: Mapping[str, object]) -> str:
    """The caption of a sample: txt, else `caption` or the first of `captions` in json; raises RejectError."""
    if text is not None:
        return clean_caption(text)
    several = metadata.get("captions")
    caption = metadata.get("caption") or (several[0] if isinstance(several, list) else None)
    if not isinstance(caption, str):
        raise RejectError(NO_CAPTION)
    return clean_caption(caption)


def _clean_list(captions: object) -> list[str]:
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise TypeError("captions is no list of strings")
    return [clean_caption(caption) for caption in captions]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
