"""Inputs that are nearly right: bytes with a few changes, JSON with a few values replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

JSON_VALUES = st.one_of(
    st.sampled_from([0, -1, 1, 1 << 31, 1 << 32, (1 << 62) - 1, 1 << 62, 1 << 64, 10**400, 0.5, -0.0, 1e308]),
    st.sampled_from(
        [float("nan"), float("inf"), None, True, False, "", "jpg", "../a.tar", "a\nb", "\ud800", "x" * 5000]
    ),
    st.sampled_from([[], {}, [[]], [{}], [0], ["jpg"], {"samples": 1}, {"samples": 1, "crc32": 0}, [[[[]]]]]),
    st.integers(-(1 << 70), 1 << 70),
    st.text(max_size=20),
)


@st.composite
def changed_bytes(draw: st.DrawFn, originals: Sequence[bytes], most: int = 4) -> bytes:
    """One of the originals after one to `most` changes."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, most))):
        at, size = draw(st.integers(0, len(data))), draw(st.one_of(st.integers(0, 16), st.sampled_from([512, 1024])))
        kind = draw(st.sampled_from(["flip", "set", "cut", "drop", "repeat", "zeros", "insert"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + size]
        elif kind == "repeat":
            data[at:at] = data[at : at + size]
        elif kind == "zeros":
            data[at : at + size] = bytes(size)
        else:
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def changed_json(draw: st.DrawFn, original: Any, most: int = 4) -> Any:
    """A copy with one to `most` values replaced, dropped or doubled."""
    root = [copy.deepcopy(original)]
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(root))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.sampled_from(["replace", "replace", "drop", "double"]))
        if kind == "replace" or holder is root:
            holder[key] = copy.deepcopy(draw(JSON_VALUES))
        elif kind == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[draw(st.text(max_size=5))] = holder[key]
    return root[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(list or object, index or key) of every value within."""
    for key, inner in list(enumerate(value) if isinstance(value, list) else value.items()):
        yield value, key
        if isinstance(inner, (list, dict)):
            yield from _places(inner)
