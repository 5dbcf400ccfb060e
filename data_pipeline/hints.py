"""What a mistyped name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, likeness: float = 0.0) -> str:
    """The most similar of the known names; empty where none is as similar as `likeness`, 0 to 1."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)
    return found[0] if found else ""


def did_you_mean(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """The end of a message, "; did you mean NAME?", or nothing where no known name is similar."""
    near = nearest(word, known, likeness=likeness)
    return f"; did you mean {near}?" if near else ""
