"""One number from an npy file of a stranger: nothing is unpickled, and no more allocated than the file has bytes."""

from __future__ import annotations

from io import BytesIO

import numpy as np

MAX_BYTES = 4096  # of a file that holds one number; numpy writes 132 or so


def parse_number(data: bytes) -> float:
    """Of an array of one element; raises ValueError for everything else, arrays of objects among it.

    A float32 of 0.2 becomes 0.2, not 0.20000000298: what was written, not what it was rounded to.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes, {MAX_BYTES} at most")
    try:
        _check_header(data)
        array = np.load(BytesIO(data), allow_pickle=False)
    except ValueError:
        raise
    except Exception as error:  # the parsers that numpy uses for the header raise several kinds
        raise ValueError(f"no header of an npy file: {error}") from None
    return float(str(array.flat[0]))


def _check_header(data: bytes) -> None:
    """Raises ValueError unless it is of one number, and of nothing else: numpy allocates what a header claims."""
    file = BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call, unused-ignore]
        raise ValueError("no npy file of version 1")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call, unused-ignore]
    if set(shape) - {1} or dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise ValueError(f"not one number: {dtype} of shape {shape}")
    if len(data) != file.tell() + dtype.itemsize:
        raise ValueError(f"{len(data)} bytes, {file.tell() + dtype.itemsize} expected")
