"""What a measurement is: plain numbers with their origin, to and from JSON. Torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from data_pipeline.errors import InputError

SCHEMA_VERSION = 1


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

    def __post_init__(self) -> None:
        if set(self.metrics) != set(self.chance) or self.main_metric not in self.metrics:
            raise InputError(f"result of {self.task}: metrics, chance and main_metric must name the same figures")
        if not all(_is_share(v) for v in (*self.metrics.values(), *self.chance.values())):
            raise InputError(f"result of {self.task}: every figure must be a number in [0, 1]")

    @property
    def value(self) -> float:
        """The main metric, in [0, 1]."""
        return self.metrics[self.main_metric]

    @property
    def value_of_chance(self) -> float:
        """What guessing scores in the main metric, in [0, 1]."""
        return self.chance[self.main_metric]


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """One model on several benchmarks, with all that is needed to tell where the numbers come from."""

    model: str  # for people
    identity: str  # sha256 of the weights, or open_clip's name and tag
    results: tuple[EvalResult, ...]
    step: int | None = None  # of the training run, where the model is one of its checkpoints
    samples_seen: int | None = None
    commit: str | None = None  # of this code; ends in -dirty where files were changed
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"results": [asdict(result) for result in self.results]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Raises InputError for unknown or missing fields, another schema version or figures out of range."""
        values = _checked(data, cls, "report")
        if values.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise InputError(
                f"report: schema_version {values['schema_version']!r}; this version reads {SCHEMA_VERSION}"
            )
        if not isinstance(values["results"], list | tuple):
            raise InputError("report: results must be a list")
        results = tuple(EvalResult(**_checked(row, EvalResult, "result")) for row in values["results"])
        return cls(**{**values, "results": results})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; raises InputError as `from_dict`, and for text that is no JSON."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"report: no JSON ({error})") from None


def _checked(data: object, kind: type, what: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{what}: must be a JSON object")
    known = {f.name for f in fields(kind)}
    required = {"model", "identity", "results"} if kind is EvalReport else known
    if unknown := sorted(set(data) - known):
        raise InputError(f"{what}: unknown field {', '.join(map(repr, unknown))}; written by a newer version?")
    if missing := sorted(required - set(data)):
        raise InputError(f"{what}: lacks {', '.join(missing)}")
    if kind is EvalResult and not all(isinstance(data[name], dict) for name in ("metrics", "chance")):
        raise InputError(f"{what}: metrics and chance must be JSON objects")
    return data


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1
