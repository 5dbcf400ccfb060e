"""The captions: every word true, good English, varied."""

import re

import numpy as np
import pytest

from pineco.data_pipeline.toy_world.captions import LAYOUT_PHRASES, NUMBERS, captions
from pineco.data_pipeline.toy_world.colours import BACKGROUND_HSV, COLOURS
from pineco.data_pipeline.toy_world.layouts import SIZES
from pineco.data_pipeline.toy_world.samples import ZERO_SHOT_SETS
from pineco.data_pipeline.toy_world.scene import (
    BACKDROPS,
    SHAPES,
    TEXTURES,
    Background,
    Light,
    Scene,
    ToyObject,
    sample_scene,
)

_KIND = re.compile(
    rf"\b(?P<number>an?|some|{'|'.join(NUMBERS)}) (?:(?P<size>{'|'.join(SIZES)}) )?"
    rf"(?:(?P<texture>{'|'.join(TEXTURES)}) )?(?:(?P<colour>{'|'.join(COLOURS)}) )?"
    rf"(?P<noun>shape|{'|'.join(SHAPES)})(?P<plural>s|es)?\b"
)
_BEHIND = re.compile(
    rf"\bon an? (?:(?P<kind>{'|'.join(BACKDROPS)}) ?)?(?P<colour>{'|'.join(BACKGROUND_HSV)})? ?background"
)


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(7)
    return [sample_scene(rng) for _ in range(count)]


def check_caption(text: str, scene: Scene) -> str:
    """Assert that what the text says is true; returns the words that were not understood."""
    behind = _BEHIND.search(text)
    if behind:
        assert behind["kind"] in (None, scene.background.kind), text
        assert behind["colour"] in (None, scene.background.colour), text
        text = text.replace(behind[0], "")
    mentioned = 0
    for kind in _KIND.finditer(text):
        said = {name: kind[name] for name in ("size", "texture", "colour") if kind[name]}
        said |= {"shape": kind["noun"]} if kind["noun"] != "shape" else {}
        matching = [t for t in scene.objects if all(getattr(t, name) == value for name, value in said.items())]
        expected = {"a": 1, "an": 1}.get(kind["number"], len(matching))
        expected = NUMBERS.index(kind["number"]) + 1 if kind["number"] in NUMBERS else expected
        assert len(matching) == expected, text
        assert bool(kind["plural"]) == (expected > 1), text
        mentioned += len(matching)
    assert mentioned == len(scene.objects), text
    text = _KIND.sub("", text)
    for phrase in sorted(LAYOUT_PHRASES[scene.layout], key=len, reverse=True):
        text = text.replace(phrase, "")
    return re.sub(r"a picture of|an image of|there (is|are)|a drawing with|this shows|\band\b|,", "", text).strip()


def test_every_word_of_a_caption_is_true() -> None:
    """If it fails, the pairs teach wrong words; the parser knows the grammar only, not how it is written."""
    rng = np.random.default_rng(0)
    for scene in scenes(600):
        for thoroughness in (0.3, 0.65, 1.0):
            for text in captions(scene, rng, 3, thoroughness):
                assert check_caption(text, scene) == "", text


def test_the_caption_parser_catches_lies() -> None:
    """If it fails, the test above proves nothing."""
    thing = ToyObject("circle", "red", (0.9, 0, 0), (0.5, 0, 0), "solid", "large", 0.5, 0.5, 0.25, 0.0, 1.0)
    black, light = Background("plain", "black", (0.0, 0.0, 0.0), 0.0), Light((1.0, 1.0, 1.0), 0.0, 0.0, 0.0, 0)
    scene = Scene((thing,), "middle", black, light)
    assert check_caption("a large solid red circle in the middle on a plain black background", scene) == ""
    assert check_caption("a red circle on the left", scene) == "on the left"
    for lie in ("a blue circle", "a red star", "two red circles", "a striped circle", "a red circles"):
        with pytest.raises(AssertionError):
            check_caption(lie, scene)


def test_articles_fit_the_next_word() -> None:
    """If it fails, captions read 'a orange arrow'."""
    rng = np.random.default_rng(0)
    texts = [text for scene in scenes(300) for text in captions(scene, rng, 5, 0.4)]
    assert not [text for text in texts if re.search(r"\ba [aeiou]|\ban [^aeiou]", text)]
    assert any(" an orange" in text or text.startswith("an orange") for text in texts)


def test_captions_are_varied_and_use_every_class_name() -> None:
    """If it fails, a text tower sees too few sentences, or zero-shot asks with words it never saw."""
    rng = np.random.default_rng(0)
    texts = [text for scene in scenes(2000) for text in captions(scene, rng)]
    assert len(set(texts)) > 0.9 * len(texts)  # measured: 0.98
    everything = "\n".join(texts)
    for kind in ZERO_SHOT_SETS.values():
        assert [name for name in kind.classnames if name not in everything] == []
