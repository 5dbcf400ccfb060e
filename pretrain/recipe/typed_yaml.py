"""YAML merged into typed dataclasses, strict: unknown keys are errors that name the full path and the nearest one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, TupleConfig
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_place
from pineco.data_pipeline.hints import did_you_mean

_VARIABLE = re.compile(r"\$\{oc\.env:\s*(\w+)\s*\}")  # one with a default is never unset


class UnsetVariablesError(InputError):
    """Environment variables that settings name and that are not set.

    unset: the names of the variables, by the key of the setting that needs them.
    """

    def __init__(self, name: str, unset: dict[str, list[str]]) -> None:
        self.variables = list(dict.fromkeys(variable for names in unset.values() for variable in names))
        noun = "variables" if len(self.variables) > 1 else "variable"
        instead = " ".join(f"{key}=..." for key in unset)
        super().__init__(f"{name}: set the environment {noun} {listed(self.variables)}, or pass {instead}")


def read_layer(path: Path) -> DictConfig:
    """A YAML file that holds a mapping."""
    try:
        layer = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: cannot be read as YAML: {_first_line(error)}") from None
    if not isinstance(layer, DictConfig):
        raise InputError(f"{path}: must be a mapping of keys to values")
    return layer


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """`key=value` words as a layer."""
    for item in overrides:
        if "=" not in item or item.startswith("="):
            raise InputError(f"{item!r}: an override is written key=value, e.g. schedule.epochs=2")
        try:
            OmegaConf.from_dotlist([item])
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"{item!r}: the value is no YAML: {_first_line(error)}") from None
    return OmegaConf.from_dotlist(list(overrides))


def merge(name: str, schema: DictConfig, layers: Sequence[DictConfig], hidden: Sequence[str] = ()) -> Any:
    """The object of the schema's dataclass with the layers over its defaults; the last one wins.

    name: of what is merged, for messages. hidden: sections that are null by default, whose keys are valid all the same.
    """
    try:
        merged = OmegaConf.merge(schema, *layers)
        _expand_home(merged)
        return OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise InputError(f"{name}: unknown key {error.full_key}{_nearest(schema, error.full_key, hidden)}") from None
    except InterpolationResolutionError as error:
        if unset := _unset(merged):
            raise UnsetVariablesError(name, unset) from None
        raise InputError(f"{name}: {error.full_key}: {_first_line(error)}") from None
    except OmegaConfBaseException as error:
        if wrong := _wrong_length(schema, layers):  # the one error that does not name its key
            raise InputError(f"{name}: {wrong}") from None
        raise InputError(f"{name}: {error.full_key or 'value'}: {_first_line(error)}") from None


def _expand_home(node: Any) -> None:
    """Replace a leading ~/ in every string by the home folder, which no shell does in key=~/x or in YAML."""
    keys: Any = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if isinstance(value, str) and (value == "~" or value.startswith("~/")):
            node[key] = user_place(value)
        elif isinstance(value, DictConfig | ListConfig):
            _expand_home(value)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested mappings that is no mapping."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _nearest(schema: DictConfig, key: Any, hidden: Sequence[str]) -> str:
    filled = OmegaConf.merge(schema, {section: {} for section in hidden})
    keys = [path for path, _ in leaves(OmegaConf.to_container(filled))]
    sections = {path.rsplit(".", 1)[0] for path in keys if "." in path}
    return did_you_mean(str(key), [*keys, *sections], likeness=0.4)


def _wrong_length(schema: DictConfig, layers: Sequence[DictConfig]) -> str:
    """Which list of a layer is longer or shorter than the schema's; empty: none."""
    for layer in reversed(layers):
        for path, value in leaves(OmegaConf.to_container(layer)):
            known = OmegaConf.select(schema, path)
            if isinstance(known, TupleConfig) and isinstance(value, list) and len(value) != len(known):
                return f"{path} has {len(value)} values; it must have {len(known)}"
    return ""


def listed(words: Sequence[str]) -> str:
    """`A`, `A and B`, or `A, B and C`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _unset(config: Any) -> dict[str, list[str]]:
    """The variables that are not set, by the key whose value names them itself; for a list, the key of the list."""
    raw = dict(leaves(OmegaConf.to_container(config, resolve=False)))
    named = {key: _VARIABLE.findall(str(value)) for key, value in raw.items()}
    unset = {key: [name for name in names if name not in os.environ] for key, names in named.items()}
    return {key: names for key, names in unset.items() if names}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
