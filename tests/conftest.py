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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest, so that both workers end together.

    A worker takes a module whole (setup.cfg): so SLURM is started once, and by one worker, while it mostly waits.
    """
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if item.get_closest_marker("slurm") is not None:
        return 0
    return 1 if "kernels" in item.path.parts else 2
