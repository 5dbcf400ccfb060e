"""What can be measured: one row of tasks.yaml a benchmark, and how a command line names some. Torch-free."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.hints import nearest

Kind = Literal["classification", "retrieval", "multilabel"]
MainMetric = Literal["acc1", "mean_per_class_recall", "mean_recall@1", "mean_recall@10", "mean_average_precision"]

TASKS_FILE = Path(__file__).with_name("tasks.yaml")
_GUESSES: dict[MainMetric, int] = {
    "acc1": 1,
    "mean_per_class_recall": 1,
    "mean_recall@1": 1,
    "mean_recall@10": 10,
}
_WITH_CLASSES: tuple[Kind, ...] = ("classification", "multilabel")
_METRICS_OF: dict[Kind, tuple[MainMetric, ...]] = {
    "classification": ("acc1", "mean_per_class_recall"),
    "retrieval": ("mean_recall@1", "mean_recall@10"),
    "multilabel": ("mean_average_precision",),
}
DEFAULT_METRIC: dict[Kind, MainMetric] = {
    "classification": "acc1",
    "retrieval": "mean_recall@10",
    "multilabel": "mean_average_precision",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark. `size` and `classes` are what the full benchmark has, not what lies on this disk."""

    key: str
    kind: Kind
    size: int | None  # images; None for a folder that has no row in tasks.yaml
    classes: int | None  # None for retrieval
    main_metric: MainMetric
    group: str
    tags: tuple[str, ...] = ()

    @property
    def chance(self) -> float | None:
        """Expected main metric of guessing, in [0, 1]; None where the table does not tell it.

        Classification: 1 / classes. Retrieval: k / images, which is exact for image retrieval and slightly
        high for text retrieval; reports carry the exact figures of the data that was measured. Multilabel: None, since
        it follows from how often each class occurs.
        """
        if self.main_metric not in _GUESSES:
            return None
        candidates = self.classes if self.kind == "classification" else self.size
        return min(1.0, _GUESSES[self.main_metric] / candidates) if candidates else None


def load_tasks(path: Path = TASKS_FILE) -> dict[str, Task]:
    """Rows of a tasks file by key, in file order; raises InputError naming the row and the field at fault."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise InputError(f"{path}: must be a list of rows")
    tasks: dict[str, Task] = {}
    for number, row in enumerate(rows, start=1):
        task = _parse_row(row, f"{path}, row {number}")
        if task.key in tasks:
            raise InputError(f"{path}, row {number}: the key {task.key!r} stands twice")
        tasks[task.key] = task
    return tasks


def _parse_row(row: Any, where: str) -> Task:
    if not isinstance(row, dict):
        raise InputError(f"{where}: must be a mapping")
    known = [f.name for f in fields(Task)]
    for name in row:
        if name not in known:
            raise InputError(f"{where}: unknown field {name!r}; nearest is {nearest(str(name), known)!r}")
    missing = [n for n in known if n not in row and n not in ("classes", "tags")]
    if missing:
        raise InputError(f"{where}: lacks {', '.join(missing)}")
    values: dict[str, Any] = {"classes": None} | row | {"tags": tuple(row.get("tags", ()))}
    task = Task(**values)
    _check(task, where)
    return task


def _check(task: Task, where: str) -> None:
    if task.kind not in get_args(Kind):
        raise InputError(f"{where}: kind {task.kind!r} is none of {', '.join(get_args(Kind))}")
    if task.main_metric not in _METRICS_OF[task.kind]:
        raise InputError(f"{where}: main_metric of {task.kind} is one of {', '.join(_METRICS_OF[task.kind])}")
    counts = [task.size] + ([task.classes] if task.kind in _WITH_CLASSES else [])
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise InputError(f"{where}: size, and classes where there are any, must be positive integers")
    if task.kind == "retrieval" and task.classes is not None:
        raise InputError(f"{where}: a retrieval task has no classes")
    if not all(isinstance(text, str) for text in (task.key, task.group, *task.tags)):
        raise InputError(f"{where}: key, group and tags must be strings")


def split_selection(selection: str | Sequence[str]) -> list[str]:
    """The names of a selection: of a list, or of a text with "," or "+" between them."""
    names = re.split("[,+]", selection) if isinstance(selection, str) else selection
    return [name for name in (n.strip() for n in names) if name]


def select_tasks(selection: str | Sequence[str], tasks: Iterable[Task], own: Iterable[Task] = ()) -> list[Task]:
    """The tasks that a selection names, each once, in the order named.

    `selection` is a list, or a text joined by "," or "+", of keys, groups, tags and globs over keys (`toy_*`).
    `own` are data sets without a row, found by key and only where no row matches. Raises InputError with the
    nearest name where nothing does.
    """
    table, own_by_key = list(tasks), {task.key: task for task in own}
    chosen: dict[str, Task] = {}
    for name in split_selection(selection):
        found = matches(name, table) or ([own_by_key[name]] if name in own_by_key else [])
        if not found:
            known = sorted({n for t in table for n in (t.key, t.group, *t.tags)} | set(own_by_key))
            raise InputError(f"tasks: nothing is called {name!r}; nearest is {nearest(name, known)!r}")
        chosen |= {task.key: task for task in found}
    if not chosen:
        raise InputError("tasks: names no task; give keys, groups, tags or globs, joined by commas or +")
    return list(chosen.values())


def matches(name: str, table: Iterable[Task]) -> list[Task]:
    """The rows that a name means: an exact key wins over a group, a group over a tag, a tag over a glob."""
    table = list(table)
    for match in (
        lambda task: task.key == name,
        lambda task: task.group == name,
        lambda task: name in task.tags,
        lambda task: fnmatch.fnmatchcase(task.key, name),
    ):
        if found := [task for task in table if match(task)]:
            return found
    return []
