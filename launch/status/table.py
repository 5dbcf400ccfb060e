"""Runs as a table that fits the terminal: fewer columns and rows, never cut figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from pineco.launch.status.figures import Status

_GAP = 2  # characters between two columns
_LEAST = 12  # characters of a name, on the narrowest terminal
_ALWAYS = ("run", "state", "step")
_MORE = ("loss", "ETA", "samples/s", "saved", "evaluated", "goodput", "starts")  # the first ones matter most

_COLUMNS: Mapping[str, Callable[[Status], str]] = {
    "run": lambda s: _near(s.run),
    "state": lambda s: str(s.state),
    "stage": lambda s: s.stage,
    "step": lambda s: f"{s.step}/{s.steps}" if s.steps else str(s.step),
    "samples/s": lambda s: _number(s.samples_per_second, ".0f"),
    "ETA": lambda s: _duration(s.eta),
    "loss": lambda s: _number(s.loss, ".4f"),
    "evaluated": lambda s: s.evaluated,
    "saved": lambda s: str(s.saved),
    "starts": lambda s: str(s.starts or ""),
    "goodput": lambda s: _number(s.goodput and 100 * s.goodput, ".0f", " %"),
}


def table(statuses: Sequence[Status], width: int | None = None, height: int | None = None) -> Table:
    """width, height: characters and lines that it may take; None: as many as it likes.

    Where the height is given, runs that go on or wait come first, so that the finished ones are left out.
    """
    if height is not None:
        statuses = sorted(statuses, key=lambda s: ("running", "waiting", "ended").index(s.state.kind))
    rows = _rows(len(statuses), height)
    cells = {name: [cell(status) for status in statuses[:rows]] for name, cell in _COLUMNS.items()}
    if width is not None:
        cells = _fit(cells, width)
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for name in cells:
        shown.add_column(name, no_wrap=True)
    for row in zip(*cells.values(), strict=True):
        shown.add_row(*map(Text, row))
    if rows < len(statuses):
        shown.add_row(f"{len(statuses) - rows} more")
    return shown


def _rows(number: int, height: int | None) -> int:
    """How many runs are shown, below the header and above the line that counts the others."""
    if height is None or number <= height - 1:
        return number
    return max(1, height - 2)


def _fit(cells: Mapping[str, list[str]], width: int) -> dict[str, list[str]]:
    """The columns that there is room for and that say something."""
    more = ["stage", *_MORE] if "first" in cells["stage"] else [*_MORE, "stage"]
    others = sum(_width(name, cells[name]) + _GAP for name in _ALWAYS if name != "run")
    names = _shorten(cells["run"], 2 * width // 5, width - others)
    room = width - others - _width("run", names)
    chosen = set(_ALWAYS)
    for name in more:
        needed = _width(name, cells[name]) + _GAP
        if any(cells[name]) and needed <= room:
            room -= needed
            chosen.add(name)
    names = _shorten(cells["run"], _width("run", names) + room, width - others)
    return {name: names if name == "run" else column for name, column in cells.items() if name in chosen}


def _width(name: str, column: Sequence[str]) -> int:
    return max(map(cell_len, [name, *column]))


def _shorten(names: Sequence[str], wanted: int, most: int) -> list[str]:
    """All to `wanted` characters, or to as many more, up to `most`, as tell them apart.

    A folder that all lie in goes first.
    """
    wanted, most = max(_LEAST, min(wanted, most)), max(_LEAST, most)
    if max(map(len, names), default=0) <= wanted:
        return list(names)
    bare = _below_common_folder(names)
    for limit in range(wanted, most + 1):
        for head in (limit // 3, limit // 2, 2 * limit // 3, 0):  # more of the end: runs of one sweep begin alike
            short = [_middle_out(name, limit, head) for name in bare]
            if len(set(short)) == len(set(names)):
                return short
    return [_middle_out(name, most, most // 3) for name in bare]


def _below_common_folder(names: Sequence[str]) -> list[str]:
    folders = {Path(name).parent for name in names}
    return [Path(name).name for name in names] if len(folders) == 1 else list(names)


def _middle_out(name: str, limit: int, head: int) -> str:
    """So many characters of the beginning and, after dots, as many of the end as the limit allows."""
    return name if len(name) <= limit else f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def _near(run: Path) -> str:
    """The path from here, where it lies below."""
    here = Path.cwd()
    return str(run.relative_to(here) if run.is_relative_to(here) else run)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
