"""Reads data sets in the CLIP_benchmark webdataset layout and says what is wrong with one. Torch-free.

ROOT/test/nshards.txt                            number n of shards
ROOT/test/0.tar ... {n-1}.tar                    members KEY.{webp,png,jpg,jpeg} and KEY.{cls,npy,txt}
ROOT/classnames.txt                              classification: one name a line, line 0 is class 0
ROOT/zeroshot_classification_templates.txt       classification: one prompt a line, {c} is the name
ROOT/dataset_type.txt                            `retrieval`; absent for classification
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.decode import DecodeError, decode_image
from data_pipeline.errors import InputError
from data_pipeline.index import read_samples
from evals.tasks import DEFAULT_METRIC, Kind, Task, load_tasks, select_tasks

IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
_LAYOUT = (
    "test/nshards.txt, test/0.tar ..., and classnames.txt with zeroshot_classification_templates.txt "
    "or dataset_type.txt that says retrieval"
)


@dataclass(frozen=True)
class Folder:
    """A data set on disk whose layout was checked; its images were not read yet."""

    root: Path
    kind: Kind
    shards: tuple[Path, ...]
    classnames: tuple[str, ...] = ()  # empty for retrieval
    templates: tuple[str, ...] = ()  # each holds {c}; empty for retrieval


@dataclass(frozen=True)
class Example:
    """One undecoded test image and what is known of it."""

    where: str  # shard and key, for messages
    image: bytes
    label: int = -1  # class in [0, C); -1 for retrieval
    captions: tuple[str, ...] = ()  # empty for classification


def resolve_tasks(data_root: str | Path, selection: str | Sequence[str]) -> list[tuple[Task, Folder]]:
    """The selected tasks with their folders under `data_root`, all checked before anything is measured.

    Raises InputError for an unknown task, for folders that are not there (all of them in one line), for a bad
    layout, and for a folder whose kind or number of classes is not the benchmark's.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of data sets")
    tasks = select_tasks(selection, load_tasks().values(), _own_tasks(root, selection))
    missing = [task.key for task in tasks if find_folder(root, task.key) is None]
    if missing:
        raise InputError(f"{root}: no folder for {', '.join(missing)}; each needs a folder FOLDER/ with {_LAYOUT}")
    return [(task, _open_for(task, root)) for task in tasks]


def find_folder(root: Path, key: str) -> Path | None:
    """ROOT/KEY, or as clip-benchmark and DataComp name it: "/" as "-", prefix wds_, suffix _test."""
    dashed = key.replace("/", "-")
    for name in (key, dashed, f"wds_{dashed}", f"wds_{dashed}_test"):
        if (root / name).is_dir():
            return root / name
    return None


def open_folder(root: Path) -> Folder:
    """Checks the layout and reads the small text files; raises InputError that says what is missing."""
    kind = _kind(root)
    shards = _shards(root / "test")
    if kind == "retrieval":
        return Folder(root, kind, shards)
    classnames, templates = (
        _lines(root / "classnames.txt"),
        _lines(root / "zeroshot_classification_templates.txt"),
    )
    for template in templates:
        if "{c}" not in template:
            raise InputError(f"{root / 'zeroshot_classification_templates.txt'}: {template!r} lacks {{c}}")
    return Folder(root, kind, shards, classnames, templates)


def read_examples(folder: Folder) -> Iterator[Example]:
    """Every test image in shard order; raises InputError naming shard and key of one that cannot be used."""
    for shard in folder.shards:
        for key, members in read_samples(shard):
            where = f"{shard}, {key}"
            image = next((members[e] for e in IMAGE_EXTENSIONS if e in members), None)
            if image is None:
                raise InputError(f"{where}: holds {', '.join(members)}, but no image ({', '.join(IMAGE_EXTENSIONS)})")
            if folder.kind == "retrieval":
                yield Example(where, image, captions=_captions(members, where))
            else:
                yield Example(where, image, label=_label(members, len(folder.classnames), where))


def decode(example: Example) -> Image.Image:
    """The RGB image as clip-benchmark sees it: Pillow's pixels, not turned by Exif. Thread-safe.

    The strict JPEG decoder stands in for Pillow, and gives the same bits (tested on every small real set). 16-bit grey
    is scaled to 8 bits where Pillow makes it white. Raises InputError for an empty, damaged or huge image and for
    formats other than JPEG, PNG and WebP.
    """
    try:
        return Image.fromarray(decode_image(example.image, upright=False))
    except DecodeError as error:
        raise InputError(f"{example.where}: {error}; mend or drop this sample") from None


def _own_tasks(root: Path, selection: str | Sequence[str]) -> Iterator[Task]:
    """A task for every selected name that is a data folder, whether or not tasks.yaml has a row for it."""
    names = selection.split(",") if isinstance(selection, str) else selection
    for name in filter(None, (n.strip() for n in names)):
        path = find_folder(root, name)
        if path is not None and (path / "test" / "nshards.txt").is_file():
            folder = open_folder(path)
            yield Task(
                key=name,
                kind=folder.kind,
                size=None,
                classes=len(folder.classnames) or None,
                main_metric=DEFAULT_METRIC[folder.kind],
                group="own",
            )


def _open_for(task: Task, root: Path) -> Folder:
    path = find_folder(root, task.key)
    assert path is not None  # resolve_tasks has looked
    folder = open_folder(path)
    if folder.kind != task.kind:
        raise InputError(f"{path}: dataset_type.txt makes it {folder.kind}, but {task.key} is {task.kind}")
    if task.classes is not None and len(folder.classnames) != task.classes:
        raise InputError(
            f"{path / 'classnames.txt'}: {len(folder.classnames)} names, but {task.key} has {task.classes} "
            "classes; give the folder another name if it is another data set"
        )
    return folder


def _kind(root: Path) -> Kind:
    path = root / "dataset_type.txt"
    text = path.read_text(encoding="utf-8").strip().lower() if path.is_file() else "classification"
    if text == "classification":
        return "classification"
    if text == "retrieval":
        return "retrieval"
    raise InputError(f"{path}: {text!r} is not measured; classification and retrieval are")


def _shards(test: Path) -> tuple[Path, ...]:
    counter = test / "nshards.txt"
    if not counter.is_file():
        raise InputError(f"{counter}: missing; the data folder needs {_LAYOUT}")
    text = counter.read_text(encoding="utf-8").strip()
    if not text.isdecimal() or not int(text):
        raise InputError(f"{counter}: {text[:40]!r} is no positive number of shards")
    found = sorted(int(p.stem) for p in test.glob("*.tar") if p.stem.isdecimal())
    if len(found) != int(text) or found != list(range(len(found))):
        raise InputError(f"{counter}: says {text} shards (0.tar ...), but {len(found)} are there: copy the set again")
    return tuple(test / f"{number}.tar" for number in found)


def _lines(path: Path) -> tuple[str, ...]:
    """Stripped lines; a blank one in the middle is refused, since it would shift every later class."""
    if not path.is_file():
        raise InputError(f"{path}: missing; a classification folder needs it (retrieval: write dataset_type.txt)")
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines())
    if not all(lines) or not lines:
        raise InputError(f"{path}: has a blank line or no line at all; one entry a line")
    return lines


def _label(members: dict[str, bytes], classes: int, where: str) -> int:
    if "cls" in members:
        text = members["cls"].decode("ascii", errors="replace").strip()
        label = int(text) if text.isdecimal() else -1
    elif "npy" in members:
        label, text = _npy_label(members["npy"], where)
    else:
        raise InputError(f"{where}: an image without a label; add {where.rsplit(', ', 1)[-1]}.cls or .npy to the shard")
    if not 0 <= label < classes:
        raise InputError(f"{where}: label {text[:40]!r} is no class number from 0 to {classes - 1} (classnames.txt)")
    return label


def _npy_label(data: bytes, where: str) -> tuple[int, str]:
    """(label, its text) of an array of one integer; pickled objects are never loaded."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{where}: damaged or pickled .npy label ({error})") from None
    if array.size != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{where}: .npy label of shape {array.shape} and type {array.dtype}; must be one integer")
    return int(array.reshape(())), str(array.reshape(()))


def _captions(members: dict[str, bytes], where: str) -> tuple[str, ...]:
    if "txt" not in members:
        raise InputError(f"{where}: an image without captions; add {where.rsplit(', ', 1)[-1]}.txt to the shard")
    try:
        lines = members["txt"].decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{where}: the captions are not UTF-8") from None
    captions = tuple(line for line in lines if line.strip())
    if not captions:
        raise InputError(f"{where}: the captions are empty; write at least one, one a line")
    return captions
