"""What every test shares: one compute thread a worker, real data only where PINECO_DATA names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, whose own functions are decorated then
torch.set_num_threads(1)  # two xdist workers on two cores; also keeps sums in one order


@pytest.fixture
def real_data() -> Path:
    """The folder with pairs/, triplets/ and wds/ of small real data sets."""
    root = os.environ.get("PINECO_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("needs the small real data sets; PINECO_DATA does not name their folder")
    return Path(root)


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny toy world, made once a worker."""
    from pineco.data_pipeline.prepare.toy import make_toy_world
    from pineco.data_pipeline.toy_world.settings import TINY

    return make_toy_world(tmp_path_factory.mktemp("toy") / "world", TINY, workers=1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put all tests of a SLURM on one worker, which starts it once, and first: they take minutes, mostly waiting."""
    for item in items:
        if item.get_closest_marker("slurm") is not None:
            item.add_marker(pytest.mark.xdist_group("slurm"))
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)
