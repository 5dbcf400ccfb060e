"""Bounds of a setting, declared beside its default, and their check over nested settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_KEY = "bounds"  # in a field's metadata


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """An interval of numbers. `below=math.inf` asks for a finite one; NaN lies in no interval."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    null: str = ""  # what null stands for, where that is allowed and worth saying in a message

    def allow(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        """The words that follow "it must" in a message."""
        return self._interval() + (f", or null for {self.null}" if self.null else "")

    def _interval(self) -> str:
        match (self.above, self.at_least, self.below, self.at_most):
            case (0, None, None, None):
                return "be positive"
            case (0, None, math.inf, None):
                return "be positive and finite"
            case (None, 0, None, None):
                return "not be negative"
            case (None, 0, math.inf, None):
                return "be finite and not negative"
            case (None, low, None, None):
                return f"be at least {low}"
            case (None, low, high, None):
                return f"lie in [{low}, {high})"
            case (None, low, None, high):
                return f"lie in [{low}, {high}]"
            case (low, None, None, high):
                return f"be above {low} and at most {high}"
        raise ValueError(f"no words for {self!r}")


def bounded(
    default: T,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    null: str = "",
) -> T:
    """A dataclass field with a default and bounds; each element of a tuple must lie in them."""
    bounds = Bounds(above=above, at_least=at_least, below=below, at_most=at_most, null=null)
    made: T = field(default=default, metadata={_KEY: bounds})
    return made


def bounds_of(cls: Any) -> dict[str, Bounds]:
    """The bounds of a dataclass's fields by name, base classes included."""
    return {item.name: item.metadata[_KEY] for item in fields(cls) if _KEY in item.metadata}


def out_of_bounds(settings: Any, prefix: str = "") -> Iterator[str]:
    """One line for each setting out of its bounds, with its full path. None is in every bound."""
    bounds = bounds_of(settings)
    for item in fields(settings):
        value, path = getattr(settings, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from out_of_bounds(value, f"{path}.")
        elif item.name in bounds and value is not None:
            yield from _refused(path, value, bounds[item.name])


def _refused(path: str, value: Any, bounds: Bounds) -> Iterator[str]:
    several = isinstance(value, list | tuple)
    if not all(map(bounds.allow, value if several else [value])):
        yield f"{path} is {list(value) if several else value}; {'each' if several else 'it'} must {bounds}"
