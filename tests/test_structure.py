"""The folders of the package: how they depend on each other, how large they are, what a file may be called."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.structure import PACKAGES, ROOT, SOURCES, cycles, floors, rooms

MOST_FILES = 16  # directly in a folder, __init__.py not counted
MOST_LINES = 400


def test_no_import_cycle_between_folders() -> None:
    """A folder could no longer be read, tested or moved without another one that needs it in turn."""
    assert not cycles(rooms())


def test_cycles_are_found() -> None:
    """The test above would pass whatever the imports are."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert rooms()["launch/train"] >= {"launch/rundir", "pretrain/trainer"}


@pytest.mark.parametrize(("package", "most_rooms", "most_floors"), [("launch", 15, 7), ("evals", 11, 5)])
def test_a_package_is_seen_at_a_glance(package: str, most_rooms: int, most_floors: int) -> None:
    """Folders would become a flat heap again, in which nothing says what runs where."""
    found = floors(rooms(), package)
    assert len(found) <= most_rooms, sorted(found)
    assert max(found.values()) <= most_floors, found


def test_no_folder_is_a_heap() -> None:
    """A newcomer would have to read a long list of names to find a file."""
    counts = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert not {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MOST_FILES}


def test_no_file_is_large_or_named_for_nothing() -> None:
    """The code would stop being a pleasure to read."""
    assert not [path.name for path in SOURCES if len(path.read_text().split("\n")) > MOST_LINES]
    assert not [path.name for path in SOURCES if path.stem in ("utils", "common", "helpers", "misc")]


def test_every_package_says_what_it_is_for() -> None:
    """The first file that a reader opens in a folder would be empty."""
    folders = {path.parent for path in SOURCES}
    silent = [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").read_text().startswith('"""')]
    assert not silent


def test_tests_mirror_the_packages() -> None:
    """Nobody would find the tests of a file."""
    for package in PACKAGES:
        folders = {path.parent.relative_to(ROOT) for path in (ROOT / "tests" / package).rglob("test_*.py")}
        missing = [str(folder) for folder in folders if not (ROOT / Path(*folder.parts[1:])).is_dir()]
        assert not missing


def test_tests_import_no_other_test() -> None:
    """Moving or renaming one test file would break another one; helpers live in tests/support."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if line.lstrip().startswith(("from tests.", "import tests.")) and (".test_" in line or ".conftest" in line)
    ]
    assert not found, "\n".join(found)
