"""pineco recipes [NAME]: list the recipes that ship, or explain every setting of one."""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import itertools
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pineco.data_pipeline.toy_world.settings import ToyWorldSettings
from pineco.pretrain.recipe.bounds import bounds_of
from pineco.pretrain.recipe.load import RECIPES, load_recipe, recipe_names
from pineco.pretrain.recipe.settings import Recipe

_WIDTH = 160  # characters, where the output is not a terminal


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe. `about` is the comment beside its field and its bounds, empty where there is neither."""

    path: str
    value: Any
    default: Any
    about: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pineco recipes", description="List recipes, or explain one's settings.")
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or path of a YAML file (default: list all)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for pineco train")
    options = parser.parse_intermixed_args(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    if options.recipe is None:
        console.print(_list())
    else:
        console.print(_explain(load_recipe(options.recipe, options.overrides)))
    return 0


def settings(recipe: Recipe) -> Iterator[Setting]:
    """Every setting in the order of the sections, with its value here, its default and what it means."""
    yield from _settings(recipe, type(recipe)(), "")


def _settings(section: Any, defaults: Any, prefix: str) -> Iterator[Setting]:
    comments, bounds = field_comments(type(section)), bounds_of(type(section))
    for item in fields(section):
        value = getattr(section, item.name)
        default = getattr(defaults, item.name, None)
        path = f"{prefix}{item.name}"
        if is_dataclass(value) and not isinstance(value, type):
            begin = default if type(default) is type(value) else type(value)()
            yield from _settings(value, begin, f"{path}.")
        else:
            words = [comments.get(item.name, ""), f"must {bounds[item.name]}" if item.name in bounds else ""]
            yield Setting(path, value, default, "; ".join(filter(None, words)))


def field_comments(cls: type) -> dict[str, str]:
    """Comment of every field of a dataclass, by name: beside it, or on the lines above; base classes included."""
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        if is_dataclass(part):
            found |= _comments(part)
    if cls is ToyWorldSettings:
        found |= {item.name: item.metadata["help"] for item in fields(ToyWorldSettings)}
    return found


def _comments(cls: type) -> dict[str, str]:
    source = inspect.cleandoc("\n" + inspect.getsource(cls))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno is not None:
            beside = by_line.get(node.end_lineno)
            above = _above(by_line, node.lineno)
            found[node.target.id] = beside.string.lstrip("# ") if beside else above
    return found


def _above(by_line: dict[int, tokenize.TokenInfo], line: int) -> str:
    """Join the comment lines that end right above a field and have a line to themselves."""
    lines: list[str] = []
    while (token := by_line.get(line - 1)) is not None and token.line.strip().startswith("#"):
        lines.insert(0, token.string.lstrip("# "))
        line -= 1
    return " ".join(lines)


def _list() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in recipe_names():
        table.add_row(name, Text(_head((RECIPES / f"{name}.yaml").read_text())))
    return table


def _head(text: str) -> str:
    """Join the comment lines at the beginning of a recipe file."""
    return " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda x: x.startswith("#"), text.split("\n")))


def _explain(recipe: Recipe) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "value", "default, where other", "what it means"):
        table.add_column(column, overflow="fold")
    section = ""
    for row in settings(recipe):
        begins = row.path.split(".")[0] if "." in row.path else ""
        if begins != section:
            table.add_row()
        section = begins
        changed = row.value != row.default
        value = Text(_written(row.value), style="bold" if changed else "")
        table.add_row(row.path, value, _written(row.default) if changed else "", Text(row.about))
    return table


def _written(value: Any) -> str:
    """Write a value as YAML has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)
