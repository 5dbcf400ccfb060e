"""HTML from nested calls. A plain string is always escaped; only what `tag` made is taken as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("style.css")
# A second lock besides escaping: whatever a text might smuggle in, the browser loads and runs nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_VOID, _SHAPES = ("meta", "wbr"), ("path", "polygon", "polyline")


class Html(str):
    """Markup that is finished and safe."""

    __slots__ = ()


def tag(name: str, /, *children: str | Iterable[str], **attributes: str | float | None) -> Html:
    """One element; `class_` stands for class, `aria_label` for aria-label; an attribute that is None is left out."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    written = "".join(f' {key}="{escape(str(value))}"' for key, value in named)
    if name in _VOID:
        return Html(f"<{name}{written}>")
    if name in _SHAPES and not children:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{together(*children)}</{name}>")


def together(*children: str | Iterable[str]) -> Html:
    """Children one after another, strings escaped."""
    return Html("".join(_text(child) if isinstance(child, str) else together(*child) for child in children))


def document(title: str, *body: str | Iterable[str]) -> str:
    """A whole page with the style in it."""
    style = Html(f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        style,
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en')}\n"


def section(title: str, *body: str | Iterable[str], note: str = "") -> Html:
    """With a heading, and below it a line that says how to read what follows."""
    about = [tag("p", note, class_="note")] if note else []
    return tag("section", tag("h2", title), about, *body)


def scrolling(caption: str, head: Iterable[Html], rows: Iterable[Html], *, class_: str = "") -> Html:
    """A table in a box of its own, which scrolls where the screen is narrow, also from the keyboard.

    `head` are cells; `rows` are rows.
    """
    table = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", rows), class_=class_ or None
    )
    return tag("div", table, class_="scroll", role="region", aria_label=caption, tabindex="0")


def heads(*names: str, text: int = 1) -> list[Html]:
    """Cells of a table's head, the first `text` flush left."""
    return [
        tag("th", named(name), scope="col", class_=None if number < text else "number")
        for number, name in enumerate(names)
    ]


def named(text: str) -> Html:
    """A name that may break after "/", "_", "-", "," and "=", not inside a word."""
    words = re.split(r"(?<=[/_,=-])(?=[^/_,=-])", text)
    return together(*(together(tag("wbr"), word) if place else word for place, word in enumerate(words)))


def number(*children: str | Iterable[str], class_: str = "") -> Html:
    return tag("td", *children, class_=f"number {class_}".strip())


def _text(child: str) -> str:
    return child if isinstance(child, Html) else escape(child)
