"""Fixtures of every evaluation: colours as benchmarks, a model that knows them, a tiny open_clip export."""

from __future__ import annotations

import pytest
import torch

from tests.support.coloured_sets import ColourEncoder
from tests.support.coloured_sets import colour_set as colour_set
from tests.support.coloured_sets import export_dir as export_dir
from tests.support.coloured_sets import picture as picture
from tests.support.coloured_sets import write_folder as write_folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def colour_encoder() -> ColourEncoder:
    return ColourEncoder()
