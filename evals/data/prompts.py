"""Class names and prompts of a data set: its own files, prompts made for one class each, or what we package."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from pineco.data_pipeline.errors import InputError

PromptChoice = Literal["templates", "cupl", "both"]  # {c} templates, prompts made for one class each, or all of them
CLASSNAMES, TEMPLATES, SPECIFIC = "classnames.txt", "zeroshot_classification_templates.txt", "cupl_prompts.json"
FOLDER = Path(__file__).with_name("prompts")
_IMAGENET = ("imagenet1k", "imagenetv2", "imagenet_sketch", "imagenet1k_sample")  # all 1,000 classes, in their order
_SAME = {"voc2007_multilabel": "voc2007"}  # keys whose classes are another's, beyond the prefix vtab/

ReadText = Callable[[str], str | None]  # name of a file of the data set -> its text, None where there is none


@dataclass(frozen=True)
class Prompts:
    """What stands for each of C classes. source: as reports name it."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]  # each holds {c}; empty where only prompts made for one class are wanted
    source: str
    specific: tuple[tuple[str, ...], ...] = ()  # C prompts made for one class each; empty where none are wanted

    def of_classes(self) -> list[list[str]]:
        """The C lists of prompts: the templates filled in, then those made for the class."""
        filled = [[t.replace("{c}", name) for t in self.templates] for name in self.classnames]
        return [[*a, *b] for a, b in zip(filled, self.specific or [()] * len(filled), strict=True)]


def load_prompts(
    read: ReadText, where: str, key: str | None, choice: PromptChoice = "templates", classes: int | None = None
) -> Prompts:
    """The prompts of the data set at `where`; key: its name in tasks.yaml, by which packaged ones are found.

    classes: how many a benchmark has. Where classnames.txt has exactly as many lines, a blank one is the name of a
    class, as clip-benchmark takes it: vtab/clevr_closest_object_distance has a class whose name is empty. Anywhere else
    a blank line is refused, since it would shift every later class.

    Its own text files win; packaged ones stand in only where it has neither of the two, for the order of classes is
    theirs. Raises InputError for a missing or bad file.
    """
    names, templates = read(CLASSNAMES), read(TEMPLATES)
    if names is None and templates is None and (found := packaged(key or "")):
        prompts = found
    else:
        classnames = _lines(names, f"{where}/{CLASSNAMES}", with_blanks=classes)
        prompts = Prompts(classnames, _lines(templates, f"{where}/{TEMPLATES}"), "folder")
        for template in prompts.templates:
            if "{c}" not in template:
                raise InputError(f"{where}/{TEMPLATES}: {template!r} lacks {{c}}")
    return prompts if choice == "templates" else _with_specific(prompts, read, where, key, choice)


def packaged(key: str) -> Prompts | None:
    """What comes with this program, or with open_clip (whose import takes seconds), for a benchmark."""
    if key in _IMAGENET:
        return _imagenet()
    path = FOLDER / f"{_SAME.get(key, key.removeprefix('vtab/'))}.yaml"
    if not path.is_file() or path.parent != FOLDER:
        return None
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Prompts(tuple(content["classnames"]), tuple(content["templates"]), "packaged")


def is_packaged(key: str) -> bool:
    """Whether `packaged` knows a benchmark; does not import open_clip."""
    return key in _IMAGENET or packaged(key) is not None


def _imagenet() -> Prompts:
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    return Prompts(tuple(IMAGENET_CLASSNAMES), tuple(make("{c}") for make in OPENAI_IMAGENET_TEMPLATES), "open_clip")


def _with_specific(prompts: Prompts, read: ReadText, where: str, key: str | None, choice: PromptChoice) -> Prompts:
    path = f"{where}/{SPECIFIC}"
    text = read(SPECIFIC)
    if text is None:
        raise InputError(f"{path}: missing; prompts {choice!r} need it: a JSON of class names, each with its prompts")
    by_class = _table(text, path, key)
    specific = _in_order(by_class, prompts.classnames, path)
    if choice == "both":
        return replace(prompts, specific=specific, source=f"{prompts.source} + {SPECIFIC}")
    return replace(prompts, specific=specific, templates=(), source=SPECIFIC)


def _table(text: str, path: str, key: str | None) -> dict[str, Any]:
    """{class name: prompts}; also out of a file for many data sets, {data set: {class name: prompts}}."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: no JSON; write {{class name: [prompt, ...]}}") from None
    names = [key, key.removeprefix("vtab/")] if key else []
    found = next((table[n] for n in names if isinstance(table, dict) and isinstance(table.get(n), dict)), table)
    if not isinstance(found, dict) or not all(_are_prompts(prompts) for prompts in found.values()):
        raise InputError(f"{path}: must be {{class name: [prompt, ...]}} with at least one prompt, none blank, a class")
    return found


def _are_prompts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)


def _in_order(table: dict[str, Any], classnames: Sequence[str], path: str) -> tuple[tuple[str, ...], ...]:
    missing = [name for name in dict.fromkeys(classnames) if name not in table]
    extra = [name for name in table if name not in set(classnames)]
    if missing or extra:
        parts = [f"{what} {_few(names)}" for what, names in (("lacks", missing), ("has unknown", extra)) if names]
        raise InputError(f"{path}: {' and '.join(parts)}; its keys must be the lines of {CLASSNAMES}")
    return tuple(tuple(table[name]) for name in classnames)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _lines(text: str | None, path: str, with_blanks: int | None = None) -> tuple[str, ...]:
    """Stripped lines; blank ones only where there are `with_blanks` lines in all."""
    if text is None:
        raise InputError(f"{path}: missing; a classification folder needs it (retrieval: write dataset_type.txt)")
    lines = tuple(line.strip() for line in text.rstrip().splitlines())
    if not any(lines) or (not all(lines) and len(lines) != with_blanks):
        raise InputError(f"{path}: has a blank line or no line at all; one entry a line")
    return lines
