"""What imports what in the package, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("launch", "pretrain", "kernels", "data_pipeline", "evals")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of ours that a file imports, deferred imports included, without the leading `pineco.`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pineco":
            below = node.module.removeprefix("pineco").lstrip(".")
            yield from (f"{below}.{alias.name}".lstrip(".") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("pineco.") for alias in node.names if alias.name.startswith("pineco."))


def room(path: Path) -> str:
    """The folder below a package that holds a file, such as launch/plan; a file directly in a package is its own."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]).removesuffix(".py")


def rooms() -> dict[str, set[str]]:
    """Rooms by the room that imports them, itself left out."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        if path.name != "__init__.py" or len(path.relative_to(ROOT).parts) > 2:
            mine = found.setdefault(room(path), set())
            mine |= {other for name in imports(path) if (other := _room_of(name)) not in (None, room(path))}
    return found


def _room_of(name: str) -> str | None:
    """The room of a dotted name, which may end in something that a module defines; None for a package itself."""
    parts = name.split(".")
    if len(parts) < 2:
        return None
    place = ROOT / parts[0] / parts[1]
    return f"{parts[0]}/{parts[1]}" if place.is_dir() or place.with_suffix(".py").is_file() else None


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more rooms that import each other, directly or through others."""
    reach = {name: _reachable(graph, name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    stack = [start]
    while stack:
        for other in graph.get(stack.pop(), ()):
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return seen


def floors(graph: dict[str, set[str]], package: str) -> dict[str, int]:
    """Floor by room of one package: 1 for a room that imports no other room of it, else one above the highest."""
    mine = {name: {o for o in others if o.startswith(f"{package}/")} for name, others in graph.items()}
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((floor(other) for other in mine[name]), default=0)
        return found[name]

    return {name: floor(name) for name in mine if name.startswith(f"{package}/")}
