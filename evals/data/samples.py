"""One sample of a data set: what its members say, and what to call those that cannot be used. Torch-free."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.decode import DecodeError, decode_image
from pineco.evals.data.tasks import Kind

IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")


@dataclass(frozen=True)
class Example:
    """One undecoded test image and what is known of it."""

    where: str  # shard and key, for messages
    image: bytes
    label: int = -1  # classification: class in [0, C); else -1
    captions: tuple[str, ...] = ()  # retrieval: at least one; else empty
    labels: tuple[int, ...] = ()  # multilabel: the classes that are there, ascending, perhaps none; else empty
    number: int = -1  # its place in the data set, counting from 0 in shard order; -1 where it is of none


class BadSampleError(InputError):
    """A sample that cannot be used. where: shard and key; why: in words, without advice."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}; mend or drop this sample")
        self.where, self.why = where, why


class Problems:
    """The bad samples of one data set: all counted, the first few kept by place. Safe for several threads."""

    def __init__(self, keep: int = 3) -> None:
        self._keep, self._lock = keep, threading.Lock()
        self._count, self._first = 0, dict[str, str]()  # why, by where; in the order found

    def __len__(self) -> int:
        return self._count

    def add(self, error: BadSampleError) -> None:
        with self._lock:
            self._count += 1
            if len(self._first) < self._keep:
                self._first[error.where] = error.why

    def check(self, key: str, samples: int) -> None:
        """Raises InputError, one line, where there is any among the `samples` of the task `key`: no figure then."""
        if not self._count:
            return
        named = [f"{where}: {why}" for where, why in self._first.items()]
        more = ["..."] if self._count > len(named) else []
        what = f"{self._count} of {samples} samples cannot be used"
        raise InputError(f"{key}: {what}: {'; '.join(named + more)}; mend or drop them")


def digest(example: Example) -> int:
    """A number below 2**256 of the sample's place, key, image bytes and labels or captions.

    The sum modulo 2**256 over a data set is the same whichever process read which sample, and does not depend on file
    times, folders or the sizes of shards. The place counts, since outcomes are paired by it.
    """
    truth = [example.number, _key(example.where), example.label, example.labels, example.captions]
    found = hashlib.sha256(json.dumps(truth).encode())
    found.update(hashlib.sha256(example.image).digest())
    return int.from_bytes(found.digest(), "big")


def decode(example: Example) -> Image.Image:
    """The RGB image as clip-benchmark sees it: Pillow's pixels, not turned by Exif. Thread-safe.

    The strict JPEG decoder stands in for Pillow, and gives the same bits (tested on every small real set). 16-bit grey
    is scaled to 8 bits where Pillow makes it white. Raises BadSampleError for an empty, damaged or huge image and for
    formats other than JPEG, PNG and WebP.
    """
    try:
        return Image.fromarray(decode_image(example.image, upright=False))
    except DecodeError as error:
        raise BadSampleError(example.where, str(error)) from None


def parse_sample(where: str, members: Mapping[str, bytes], kind: Kind, classes: int, number: int = -1) -> Example:
    """The example of one webdataset sample; raises BadSampleError where it lacks something or says nonsense.

    members: bytes by extension. classes: C, 0 for retrieval. number: its place in the data set.
    """
    image = next((members[e] for e in IMAGE_EXTENSIONS if e in members), None)
    if image is None:
        expected = ", ".join(IMAGE_EXTENSIONS)
        raise BadSampleError(where, f"holds {', '.join(members)}, but no image ({expected})")
    if kind == "retrieval":
        return Example(where, image, captions=_captions(members, where), number=number)
    if kind == "multilabel":
        return Example(where, image, labels=_labels(members, classes, where), number=number)
    return Example(where, image, label=_label(members, classes, where), number=number)


def _label(members: Mapping[str, bytes], classes: int, where: str) -> int:
    if "cls" in members:
        text = members["cls"].decode("ascii", errors="replace").strip()
        label = int(text) if text.isdecimal() and len(text) < 10 else -1
    elif "npy" in members:
        array = _array(members["npy"], where)
        if array.size != 1 or array.dtype.kind not in "iu":
            said = f".npy label of shape {array.shape} and type {array.dtype}"
            raise BadSampleError(where, f"{said}; must be one integer")
        label, text = int(array.reshape(())), str(array.reshape(()))
    else:
        raise BadSampleError(where, f"an image without a label; add {_key(where)}.cls or .npy to the shard")
    if not 0 <= label < classes:
        raise BadSampleError(where, f"label {text[:40]!r} is no class number from 0 to {classes - 1} (classnames.txt)")
    return label


def _labels(members: Mapping[str, bytes], classes: int, where: str) -> tuple[int, ...]:
    """The classes that a vector of zeros and ones marks."""
    if "npy" not in members:
        raise BadSampleError(where, f"an image without labels; add {_key(where)}.npy to the shard")
    array = _array(members["npy"], where)
    if array.shape != (classes,) or array.dtype.kind not in "biuf":
        said = f".npy labels of shape {array.shape} and type {array.dtype}"
        raise BadSampleError(where, f"{said}; must be {classes} numbers (classnames.txt)")
    if not np.isin(array, (0, 1)).all():
        raise BadSampleError(where, ".npy labels other than 0 and 1")
    return tuple(np.flatnonzero(array).tolist())


def _array(data: bytes, where: str) -> np.ndarray:
    """Of a .npy file; pickled objects are never loaded."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadSampleError(where, f"damaged or pickled .npy label ({error})") from None


def _captions(members: Mapping[str, bytes], where: str) -> tuple[str, ...]:
    if "txt" not in members:
        raise BadSampleError(where, f"an image without captions; add {_key(where)}.txt to the shard")
    try:
        lines = members["txt"].decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise BadSampleError(where, "the captions are not UTF-8") from None
    captions = tuple(line for line in lines if line.strip())
    if not captions:
        raise BadSampleError(where, "the captions are empty; at least one is needed, one a line")
    return captions


def _key(where: str) -> str:
    return where.rsplit(", ", 1)[-1]
