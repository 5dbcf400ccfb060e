"""What a measurement is: plain numbers with their origin, to and from JSON. Torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from pineco.data_pipeline.errors import InputError
from pineco.evals.results.provenance import Measurement

SCHEMA_VERSION = 2
READABLE = (1, 2)  # version 1 had no intervals, prompts, precision, selection, missing, failed and seconds of all

Interval = tuple[float, float]  # (low, high), shares in [0, 1]


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """One model on one benchmark."""

    task: str  # key in tasks.yaml, or the name of the user's folder
    main_metric: str
    metrics: dict[str, float]  # each in [0, 1]
    chance: dict[str, float]  # by the same names: what guessing scores on this data, in [0, 1]
    samples: int  # images measured
    full_size: int | None  # images of the full benchmark, where that is known
    seconds: float
    intervals: dict[str, Interval] = field(default_factory=dict)  # 95 %, by the same names; empty: not known
    prompts: str = ""  # where class names and templates came from; "" for retrieval
    data: str = ""  # 64 hex digits of every sample in its place, see `pineco.evals.data.samples.digest`; "": not known
    notes: tuple[str, ...] = ()  # what is odd about the data, a line each

    def __post_init__(self) -> None:
        if set(self.metrics) != set(self.chance) or self.main_metric not in self.metrics:
            raise InputError(f"result of {self.task}: metrics, chance and main_metric must name the same figures")
        if not all(_is_share(v) for v in (*self.metrics.values(), *self.chance.values())):
            raise InputError(f"result of {self.task}: every figure must be a number in [0, 1]")
        if self.intervals and set(self.intervals) != set(self.metrics):
            raise InputError(f"result of {self.task}: intervals must name the same figures as metrics, or none")
        if not all(_is_interval(interval) for interval in self.intervals.values()):
            raise InputError(f"result of {self.task}: every interval must be two numbers in [0, 1], the lower first")

    @property
    def value(self) -> float:
        """The main metric, in [0, 1]."""
        return self.metrics[self.main_metric]

    @property
    def value_of_chance(self) -> float:
        """What guessing scores in the main metric, in [0, 1]."""
        return self.chance[self.main_metric]

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the main metric, where it is known."""
        return self.intervals.get(self.main_metric)

    @property
    def times_chance(self) -> float | None:
        """The main metric as a multiple of guessing; None where guessing scores nothing."""
        return self.value / self.value_of_chance if self.value_of_chance else None

    @property
    def is_part(self) -> bool:
        """Another number of images than the full benchmark has: the figure is then not comparable to published ones."""
        return self.full_size is not None and self.full_size != self.samples

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Raises InputError for unknown, missing or mistyped fields, and for figures out of range."""
        values = _checked(data, cls, "result")
        intervals = {name: _pair(interval) for name, interval in values.get("intervals", {}).items()}
        return cls(**{**values, "intervals": intervals, "notes": tuple(values.get("notes", ()))})


@dataclass(frozen=True, kw_only=True)
class EvalReport(Measurement):
    """One model on several benchmarks, with all that is needed to tell where the numbers come from."""

    results: tuple[EvalResult, ...]
    step: int | None = None  # of the training run, where the model is one of its checkpoints
    samples_seen: int | None = None
    selection: str = ""  # tasks as asked for
    missing: tuple[str, ...] = ()  # tasks that were asked for and have no data here
    failed: dict[str, str] = field(default_factory=dict)  # by task, in one line why it has no figure
    schema_version: int = SCHEMA_VERSION

    @property
    def by_task(self) -> dict[str, EvalResult]:
        return {result.task: result for result in self.results}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the data of its tasks, a line each."""
        return tuple(f"{result.task}: {note}" for result in self.results for note in result.notes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"results": [asdict(result) for result in self.results]}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """A report of any readable version as one of this version.

        Raises InputError for unknown, missing or mistyped fields, another schema version or figures out of range.
        """
        values = _checked(data, cls, "report")
        if values.get("schema_version", SCHEMA_VERSION) not in READABLE:
            versions = " and ".join(map(str, READABLE))
            raise InputError(f"report: schema_version {values['schema_version']!r}; this version reads {versions}")
        results = tuple(EvalResult.from_dict(row) for row in values["results"])
        read = {"results": results, "missing": tuple(values.get("missing", ())), "schema_version": SCHEMA_VERSION}
        return cls(**{**values, **read})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; raises InputError as `from_dict`, and for text that is no JSON."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"report: no JSON ({error})") from None


_REQUIRED: dict[type, frozenset[str]] = {
    EvalReport: frozenset({"model", "identity", "results"}),
    EvalResult: frozenset({"task", "main_metric", "metrics", "chance", "samples", "full_size", "seconds"}),
}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_object_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("task", "main_metric", "prompts", "data", "model", "identity"), (_is_text, "a text")),
    **dict.fromkeys(("hardware", "precision", "selection"), (_is_text, "a text")),
    **dict.fromkeys(("metrics", "chance", "intervals"), (_is_object, "a JSON object")),
    **dict.fromkeys(("versions", "failed"), (_is_object_of_texts, "a JSON object of texts")),
    **dict.fromkeys(("samples",), (_is_count, "a whole number from 0 on")),
    **dict.fromkeys(("seconds",), (_is_time, "a number from 0 on")),
    **dict.fromkeys(("results",), (_is_list, "a list")),
    **dict.fromkeys(("missing", "notes"), (_is_texts, "a list of texts")),
    **dict.fromkeys(("full_size", "step", "samples_seen"), (lambda v: v is None or _is_count(v), "a number or null")),
    **dict.fromkeys(("commit",), (lambda v: v is None or _is_text(v), "a text or null")),
}


def _checked(data: object, kind: type, what: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{what}: must be a JSON object")
    if unknown := sorted(set(data) - {f.name for f in fields(kind)}):
        raise InputError(f"{what}: unknown field {', '.join(map(repr, unknown))}; written by a newer version?")
    if missing := sorted(_REQUIRED[kind] - set(data)):
        raise InputError(f"{what}: lacks {', '.join(missing)}")
    for name, value in data.items():
        if name in _KINDS and not _KINDS[name][0](value):
            raise InputError(f"{what}: {name} must be {_KINDS[name][1]}, not {value!r:.60}")
    return data


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1


def _is_interval(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_share, value)) and value[0] <= value[1]


def _pair(value: object) -> Any:
    """JSON has no tuples; what is no list stays as it is and is refused later."""
    return tuple(value) if isinstance(value, list) else value
