"""What people say of a toy scene: true English captions from a small grammar."""

from collections import Counter

import numpy as np

from pineco.data_pipeline.toy_world.layouts import Layout, pick
from pineco.data_pipeline.toy_world.scene import Scene, ToyObject

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LAYOUT_PHRASES: dict[Layout, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"), "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top"), "bottom": ("at the bottom", "near the bottom"),
    "middle": ("in the middle",), "row": ("in a row",), "column": ("in a column",),
    "diagonal": ("on a diagonal", "along a diagonal"), "grid": ("in a grid",),
    "scattered": ("scattered around",),
}  # fmt: skip
_FRAMES = ("", "", "", "a picture of ", "an image of ", "there {be} ", "a drawing with ", "this shows ")


def _article(noun_phrase: str) -> str:
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _group_phrase(thing: ToyObject, count: int, says: set[str], rng: np.random.Generator) -> str:
    """'three small striped red stars': what is said of one group, with its article or number."""
    noun: str = thing.shape if "shape" in says else "shape"
    adjectives = [getattr(thing, name) for name in ("size", "texture", "colour") if name in says]
    if count == 1:
        phrase = " ".join([*adjectives, noun])
        return f"one {phrase}" if rng.random() < 0.3 else _article(phrase)
    number = NUMBERS[count - 1] if "count" in says else "some"
    return " ".join([number, *adjectives, _plural(noun)])


def _background_phrase(scene: Scene, says: set[str]) -> str:
    """'on a noisy dark blue background', '' when nothing is said of it."""
    words: list[str] = [scene.background.kind] if "backdrop" in says else []
    words += [scene.background.colour] if "background" in says else []
    return f"on {_article(' '.join([*words, 'background']))}" if words else ""


def _choose_what_to_say(scene: Scene, rng: np.random.Generator, thoroughness: float) -> set[str]:
    names = ("size", "texture", "colour", "shape", "count", "layout", "backdrop", "background")
    says = {name for name in names if rng.random() < thoroughness}
    if not says & {"colour", "shape"}:  # the kinds of a mixed scene must stay apart
        says.add(pick(rng, ("colour", "shape")))
    return says


def caption(scene: Scene, rng: np.random.Generator, thoroughness: float) -> str:
    """One true English sentence or phrase, lower case; each attribute is said with that probability."""
    says = _choose_what_to_say(scene, rng, thoroughness)
    groups = Counter((thing.shape, thing.colour) for thing in scene.objects)
    first = {(thing.shape, thing.colour): thing for thing in reversed(scene.objects)}
    if rng.random() < 0.2 * (1 - thoroughness):  # only counted
        total = len(scene.objects)
        things = f"{NUMBERS[total - 1]} {'shape' if total == 1 else 'shapes'}"
    else:
        things = " and ".join(_group_phrase(first[kind], n, says, rng) for kind, n in groups.items())
    where = pick(rng, LAYOUT_PHRASES[scene.layout]) if "layout" in says else ""
    behind = _background_phrase(scene, says)
    frame = pick(rng, _FRAMES).format(be="is" if things.startswith(("a ", "an ", "one ")) else "are")
    if behind and rng.random() < 0.15:
        return f"{behind}, {' '.join(filter(None, [things, where]))}"
    return frame + " ".join(filter(None, [things, where, behind]))


def captions(scene: Scene, rng: np.random.Generator, count: int = 5, thoroughness: float = 0.65) -> list[str]:
    """That many different captions of a scene."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[caption(scene, rng, thoroughness)] = None
    return list(found)
