"""The sentence around a prompt. Imports nothing heavy, so that a recipe can be checked on a login node."""

from __future__ import annotations

from pineco.data_pipeline.errors import InputError

PLACE = "{}"


def check_template(template: str, name: str) -> None:
    """Raises InputError unless {} stands in it once. name: of what holds it, for the message."""
    if template.count(PLACE) != 1:
        told = f"{name}: data.caption is {template!r}"
        raise InputError(f"{told}; {PLACE} must stand in it once, where the prompt goes")


def fill_template(template: str, prompt: str) -> str:
    """Whatever else stands in braces, in the template or in the prompt, stays as it is."""
    return template.replace(PLACE, prompt)
