"""The sampler of scenes: what it is asked for is what it draws."""

from typing import Any

import numpy as np
import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.toy_world.layouts import LAYOUTS
from pineco.data_pipeline.toy_world.scene import Scene, sample_scene


def scenes(count: int, **constraints: Any) -> list[Scene]:
    rng = np.random.default_rng(7)
    return [sample_scene(rng, **constraints) for _ in range(count)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_what_their_names_say(layout: str) -> None:
    """If it fails, the classes of toy_layouts and the captions are wrong."""
    for scene in scenes(100, layout=layout):
        x, y = (np.array([getattr(thing, axis) for thing in scene.objects]) for axis in ("x", "y"))
        true = {
            "left": x.max() < 0.45,
            "right": x.min() > 0.55,
            "top": y.max() < 0.45,
            "bottom": y.min() > 0.55,
            "middle": np.hypot(x - 0.5, y - 0.5).max() < 0.1,
            "row": np.ptp(y) < 0.05 < np.ptp(x),
            "column": np.ptp(x) < 0.05 < np.ptp(y),
            "diagonal": len(x) > 2 and abs(np.corrcoef(x, y)[0, 1]) > 0.99,
            "grid": len(x) in (4, 6, 9) and len(np.unique(x.round(5))) * len(np.unique(y.round(5))) == len(x),
            "scattered": len(x) > 1,
        }
        assert true[layout]
        assert all(0 < value < 1 for value in (*x, *y))


def test_impossible_constraints_are_refused() -> None:
    """If it fails, the sampler loops for ever or breaks its promise about size."""
    with pytest.raises(InputError, match="count=9"):
        sample_scene(np.random.default_rng(0), count=9, size="large")
