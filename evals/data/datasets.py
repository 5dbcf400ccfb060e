"""Reads data sets in the CLIP_benchmark webdataset layout and says what is wrong with one. Torch-free.

ROOT/test/nshards.txt                            number n of shards
ROOT/test/0.tar ... {n-1}.tar                    members KEY.{webp,png,jpg,jpeg} and KEY.{cls,npy,txt}
ROOT/classnames.txt                              with classes: one name a line, line 0 is class 0
ROOT/zeroshot_classification_templates.txt       with classes: one prompt a line, {c} is the name
ROOT/cupl_prompts.json                           optional: {class name: [prompt, ...]}, prompts for one class each
ROOT/dataset_type.txt                            `retrieval` or `multilabel`; absent for classification

ROOT is a folder, s3://bucket/prefix or http(s)://host/path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.reading.shard_stream import stream_samples
from pineco.data_pipeline.stores.http import HttpStore
from pineco.data_pipeline.stores.store import LocalStore, Store
from pineco.evals.data.names import few
from pineco.evals.data.prompts import PromptChoice, Prompts, is_packaged, load_prompts
from pineco.evals.data.roots import COUNTER, DataRoot, below, open_place, read_text
from pineco.evals.data.samples import BadSampleError, Example, Problems, decode, parse_sample
from pineco.evals.data.tasks import DEFAULT_METRIC, Kind, Task, load_tasks, matches, select_tasks, split_selection

__all__ = [
    "BadSampleError",
    "Example",
    "Folder",
    "Problems",
    "ResolvedTasks",
    "decode",
    "fingerprint",
    "open_folder",
    "own_tasks",
    "read_examples",
    "resolve_tasks",
]
_CONNECTIONS = 8  # that ask a web server for the sizes of shards
_LAYOUT = (
    "test/nshards.txt, test/0.tar ..., and classnames.txt with zeroshot_classification_templates.txt "
    "or dataset_type.txt that says retrieval"
)


@dataclass(frozen=True)
class Folder:
    """A data set whose layout was checked; its images were not read yet."""

    store: Store  # of its text files
    test: Store  # of its shards
    kind: Kind
    shards: tuple[str, ...]  # names, in order
    prompts: Prompts | None = None  # None for retrieval

    @property
    def root(self) -> str:
        """Folder or URL."""
        return self.store.root_name

    @property
    def classnames(self) -> tuple[str, ...]:
        """C names; empty for retrieval."""
        return self.prompts.classnames if self.prompts else ()

    @property
    def templates(self) -> tuple[str, ...]:
        """Each holds {c}; empty for retrieval, and where only prompts made for one class are used."""
        return self.prompts.templates if self.prompts else ()

    @property
    def prompts_from(self) -> str:
        """Where class names and prompts came from, as reports say it; empty for retrieval."""
        return self.prompts.source if self.prompts else ""

    def class_prompts(self) -> list[list[str]]:
        """The C lists of prompts, at least one a class; empty for retrieval."""
        return self.prompts.of_classes() if self.prompts else []


class ResolvedTasks(list[tuple[Task, Folder]]):
    """Tasks with their folders, in the order asked for. missing: those that were asked for and are not here."""

    def __init__(self, found: Sequence[tuple[Task, Folder]], missing: Sequence[Task] = ()) -> None:
        super().__init__(found)
        self.missing = tuple(missing)


def resolve_tasks(
    data_root: str | Path,
    selection: str | Sequence[str],
    *,
    allow_missing: bool = False,
    prompts: PromptChoice = "templates",
) -> ResolvedTasks:
    """The selected tasks with their folders under `data_root`, all checked before anything is measured.

    data_root: a folder, s3:// or http(s):// address, perhaps with {dataset} or {dataset_cleaned}, see DataRoot.
    Raises InputError for an unknown task, for data sets that are not there (in one line, the first five named;
    allow_missing: only where none is there), for a bad layout, and for a kind or number of classes that is not the
    benchmark's.
    """
    root = DataRoot(data_root)
    table = tuple(load_tasks().values())
    tasks = select_tasks(selection, table, own_tasks(root, selection, table))
    places = {task.key: root.find(task.key) for task in tasks}
    missing = [task for task in tasks if places[task.key] is None]
    if missing and not (allow_missing and len(missing) < len(tasks)):
        keys = few([task.key for task in missing])
        some = ", or pass --allow-missing to measure what is here" if len(missing) < len(tasks) else ""
        advice = f"run again with --layout to see the exact layout of each{some}"
        raise InputError(f"{root.root}: no folder for {keys}; {advice}")
    found = [
        (task, _open_for(task, root.open(place), prompts)) for task in tasks if (place := places[task.key]) is not None
    ]
    return ResolvedTasks(found, missing)


def open_folder(
    root: str | Path, key: str | None = None, *, prompts: PromptChoice = "templates", classes: int | None = None
) -> Folder:
    """Checks the layout and reads the small text files; raises InputError that says what is missing.

    key: the benchmark's name, by which packaged prompts are found where the folder has none; classes: how many it has.
    """
    return _open(open_place(root), key, prompts, classes)


def _open(store: Store, key: str | None, prompts: PromptChoice, classes: int | None) -> Folder:
    kind, test, shards = _kind(store), *_shards(store)
    if kind == "retrieval":
        return Folder(store, test, kind, shards)
    loaded = load_prompts(partial(read_text, store), store.root_name, key, prompts, classes)
    return Folder(store, test, kind, shards, loaded)


def read_examples(folder: Folder, problems: Problems | None = None) -> Iterator[Example]:
    """Every test image in shard order, read ahead.

    A sample that cannot be used goes to `problems`, for one message on all of them, and is left out; without it the
    first one raises BadSampleError. Raises InputError for a damaged shard in either case.
    """
    classes = len(folder.classnames)
    with closing(stream_samples(folder.test, folder.shards)) as samples:
        for number, (shard, key, members) in enumerate(samples):
            where = f"{folder.test.where(shard)}, {key}"
            try:
                example = parse_sample(where, members, folder.kind, classes, number)
            except BadSampleError as error:
                if problems is None:
                    raise
                problems.add(error)
            else:
                yield example


def fingerprint(folder: Folder) -> str:
    """64 hex digits that change with the names, sizes and versions of the shards and with the prompts.

    Cheap: no shard is read. The version is the ETag, or where there is none the time of the last change.
    """
    digest = hashlib.sha256(repr((folder.kind, folder.classnames, folder.class_prompts())).encode())
    for name in folder.shards:
        test = folder.test
        digest.update(repr((name, test.size(name), test.etag(name), test.modified(name))).encode())
    return digest.hexdigest()


def layout_needed(task: Task) -> str:
    """The files that a task needs, one a line, for the command line to print where its data set is missing."""
    dashed = task.key.replace("/", "-")
    label = {
        "classification": f"KEY.cls (a class number, 0 to {(task.classes or 0) - 1})",
        "multilabel": f"KEY.npy ({task.classes} values, 1 where the class is there, else 0)",
        "retrieval": "KEY.txt (captions, one a line)",
    }[task.kind]
    lines = [
        (f"{dashed}/", f"or wds_{dashed}/"),
        ("  test/nshards.txt", "the number n of shards"),
        ("  test/0.tar ... n-1.tar", f"{task.size} samples: KEY.jpg, .png or .webp, and {label}"),
    ]
    if task.kind != "classification":
        lines.append(("  dataset_type.txt", task.kind))
    if task.kind != "retrieval":
        note = "; packaged, where both are left out" if is_packaged(task.key) else ""
        lines.append(("  classnames.txt", f"{task.classes} names, one a line, that of class 0 first{note}"))
        lines.append(("  zeroshot_classification_templates.txt", f"prompts, one a line, with {{c}} for the name{note}"))
    return "\n".join(f"{name:40s}{what}" for name, what in lines)


def own_tasks(root: DataRoot, selection: str | Sequence[str], table: Sequence[Task]) -> Iterator[Task]:
    """A task for every selected name that is no row of tasks.yaml but a data folder."""
    for name in split_selection(selection):
        place = None if matches(name, table) else root.find(name)
        if place is None:
            continue
        folder = _open(root.open(place), None, "templates", None)
        yield Task(
            key=name,
            kind=folder.kind,
            size=None,
            classes=len(folder.classnames) or None,
            main_metric=DEFAULT_METRIC[folder.kind],
            group="own",
        )


def _open_for(task: Task, store: Store, prompts: PromptChoice) -> Folder:
    folder = _open(store, task.key, prompts, task.classes)
    if folder.kind != task.kind:
        raise InputError(f"{folder.root}: dataset_type.txt makes it {folder.kind}, but {task.key} is {task.kind}")
    if task.classes is not None and len(folder.classnames) != task.classes:
        raise InputError(
            f"{folder.root}/classnames.txt: {len(folder.classnames)} names, but {task.key} has {task.classes} "
            "classes; give the folder another name if it is another data set"
        )
    return folder


def _kind(store: Store) -> Kind:
    text = (read_text(store, "dataset_type.txt") or "classification").strip().lower()
    for kind in get_args(Kind):
        if text == kind:
            return kind
    raise InputError(f"{store.where('dataset_type.txt')}: {text[:40]!r} is none of {', '.join(get_args(Kind))}")


def _shards(store: Store) -> tuple[Store, tuple[str, ...]]:
    """The store of the test folder, and the names of its shards, all of which are there."""
    counter = f"{store.root_name}/test/{COUNTER}"
    if isinstance(store, LocalStore) and not (store.root / "test").is_dir():
        raise InputError(f"{counter}: missing; the data folder needs {_LAYOUT}")
    test = below(store, "test")
    text = read_text(test, COUNTER)
    if text is None:
        raise InputError(f"{counter}: missing; the data folder needs {_LAYOUT}")
    text = text.strip()
    if not text.isdecimal() or len(text) > 6 or not int(text):
        raise InputError(f"{counter}: {text[:40]!r} is no positive number of shards")
    found = _numbers(test, int(text))
    if found != list(range(int(text))):
        raise InputError(f"{counter}: says {text} shards (0.tar ...), but {len(found)} are there: copy the set again")
    return test, tuple(f"{number}.tar" for number in found)


def _numbers(test: Store, expected: int) -> list[int]:
    """The numbers of the shards that are there, sorted; a web server is only asked for those that are expected."""
    if isinstance(test, HttpStore):
        names = [f"{number}.tar" for number in range(expected)]
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            return [number for number, size in enumerate(pool.map(test.find, names)) if size is not None]
    stems = (name.removesuffix(".tar") for name in test.list_names() if name.endswith(".tar"))
    return sorted(int(stem) for stem in stems if stem.isdecimal())
