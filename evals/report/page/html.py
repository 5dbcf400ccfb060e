"""Jinja2 templates of the pages. Every string is escaped; only `markupsafe.Markup` is taken as it is."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pineco.evals.report import formats
from pineco.evals.report.page.charts import range_chart

STYLE = Path(__file__).with_name("style.css")
TEMPLATES = Path(__file__).with_name("templates")
FEW = 5  # tasks in a list of the best or the worst, or named without a click


def render(template: str, **values: object) -> str:
    """A whole HTML document; raises jinja2.UndefinedError for a name that `values` lacks."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Templates see figures in words through the filters of `pineco.evals.report.formats`."""
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for say in ("compact", "images", "interval", "percent", "point_interval", "points", "times"):
        made.filters[say] = getattr(formats, say)
    made.filters["named"] = named
    style = Markup(STYLE.read_text(encoding="utf-8"))  # noqa: S704 - our own file
    made.globals.update(range_chart=range_chart, style=style, NONE=formats.NONE, FEW=FEW)
    return made


def named(text: str) -> Markup:
    """A name that may break after "/", "_", "-", "," and "=", not inside a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_,=-])(?=[^/_,=-])", text))
