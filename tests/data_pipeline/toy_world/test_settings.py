"""The settings of a toy world: what they refuse, and that they cost nothing to import."""

import subprocess
import sys
from typing import Any

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.toy_world.settings import ToyWorldSettings


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"image_size": 8}, {"triplets": 5}, {"jpeg_quality": 101}, {"shard_size": 10_001}]
)
def test_settings_out_of_range_are_named(wrong: dict[str, int]) -> None:
    """If it fails, a wrong number surfaces as a traceback from the renderer or as bad data."""
    with pytest.raises(InputError, match=next(iter(wrong))):
        ToyWorldSettings(**wrong)


@pytest.mark.parametrize("value", [2.0, True, "64", None])
def test_settings_must_be_integers(value: Any) -> None:
    """If it fails, image_size=64.0 from a YAML file makes a second world that equals the first."""
    with pytest.raises(InputError, match="image_size must be an integer"):
        ToyWorldSettings(image_size=value)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("toy_world.settings", {"numpy", "simplejpeg", "torch", "webdataset", "rich", "PIL"}),
        ("toy_world.world", {"torch", "webdataset", "rich", "PIL"}),
    ],
)
def test_import_is_cheap(module: str, heavy: set[str]) -> None:
    """If it fails, checking a recipe takes seconds, and the workers are forked from a process with torch."""
    code = f"import sys, data_pipeline.{module}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
