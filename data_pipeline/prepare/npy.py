"""One number from an npy file. Of the format only this much is understood, so nothing can be unpickled or allocated."""

from __future__ import annotations

import re

import numpy as np

MAX_BYTES = 4096  # of a file that holds one number; numpy writes 132 or so
_SHAPE = rb"\((?:1,? ?)*\)"  # (), (1,), (1, 1), ...
_HEADER = re.compile(
    rb"\{'descr': '([<>|][fiu][1248])', 'fortran_order': (?:True|False), 'shape': " + _SHAPE + rb", \}\s*"
)
_MAGIC = b"\x93NUMPY\x01\x00"


def parse_number(data: bytes) -> float:
    """Of an array of one element; raises ValueError for everything else, arrays of objects among it.

    A float32 of 0.2 becomes 0.2, not 0.20000000298: what was written, not what it was rounded to.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("no npy file of version 1")
    begin = len(_MAGIC) + 2
    end = begin + int.from_bytes(data[begin - 2 : begin], "little")
    match = _HEADER.fullmatch(data[begin:end])
    if not match:
        raise ValueError(f"not one number: {data[begin:end][:80]!r}")
    dtype = np.dtype(match[1].decode())
    if len(data) != end + dtype.itemsize:
        raise ValueError(f"{len(data)} bytes, {end + dtype.itemsize} expected")
    return float(str(np.frombuffer(data, dtype, offset=end)[0]))
