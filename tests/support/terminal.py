"""What a terminal shows."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def printed(content: RenderableType, width: int) -> str:
    """`content` on a terminal of `width` columns."""
    screen = io.StringIO()
    Console(width=width, file=screen).print(content)
    return screen.getvalue()
