"""Names of classes and prompts, from the files that a user gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pineco.data_pipeline.errors import InputError

TEMPLATES = ("a photo of {c}.",)  # where none are given


def read_classnames(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """The name of each class, in the order of the folders (sorted).

    A .json file maps folder -> name, and may hold folders that are not there; any other has one name a line. Raises
    InputError for a file with a folder missing, another number of lines, or a name that classnames.txt cannot hold.
    """
    if path.suffix == ".json":
        names = _mapped(path, folders)
    else:
        names = tuple(line.strip() for line in _read(path).splitlines())
        if len(names) != len(folders):
            raise InputError(f"{path}: {len(names)} lines, but {len(folders)} class folders; one name a line")
    for folder, name in zip(folders, names, strict=True):
        if len(name.splitlines()) != 1:
            raise InputError(f"{path}: {name[:40]!r} for {folder!r} is no name of a class: one line, not blank")
    return names


def read_templates(path: Path | None) -> tuple[str, ...]:
    """Prompts with {c} where the name goes; ours where `path` is None. Raises InputError for any other line."""
    if path is None:
        return TEMPLATES
    lines = tuple(line.strip() for line in _read(path).splitlines())
    for number, line in enumerate(lines, 1):
        # Other readers fill them in with str.format, which stumbles over any other brace.
        if "{c}" not in line or set("{}") & set(line.replace("{c}", "")):
            raise InputError(f"{path}: line {number}: {line[:60]!r} must hold {{c}}, and no other brace")
    if not lines:
        raise InputError(f"{path}: no line; one prompt a line, with {{c}} where the name of a class goes")
    return lines


def _mapped(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    try:
        table = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise InputError(f"{path}: no JSON; write {{folder: name}}") from None
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise InputError(f"{path}: must be {{folder: name}}, both of them text")
    if missing := [folder for folder in folders if folder not in table]:
        raise InputError(f"{path}: lacks {len(missing)} of {len(folders)} class folders, first of all {missing[0]!r}")
    return tuple(table[folder].strip() for folder in folders)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
