"""Commands of `pineco` called in this process, as the command line calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pineco.launch import cli


def command(name: str) -> Callable[[Sequence[str]], int]:
    """Return `pineco NAME` as a function of the words after it; it returns the exit code."""

    def call(arguments: Sequence[str]) -> int:
        return cli.main([*name.split(), *arguments])

    return call
