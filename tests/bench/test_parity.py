"""Our figures are clip-benchmark's, computed by clip-benchmark itself in the peers' environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import evals as bench_evals
from tests.bench.eval_cuts import Cut, cut_sets
from tests.bench.evals import Setting
from tests.bench.peer_clip_benchmark import missing, pair_up, run_clip_benchmark

# 6 GFLOP a text, of which ours leaves out most: seconds of this test are clip-benchmark's captions and prompts.
SMALL = Cut(images=11, templates=2, classes=6)
BATCH = 8  # so that the last batch of each set is a shorter one


@pytest.fixture
def weights(tmp_path: Path, real_data: Path) -> Iterator[Path]:
    """ViT-B-32's, random and the same everywhere; 600 MB, so not left for pytest to keep."""
    if (why := missing()) is not None:
        pytest.skip(why)
    path = tmp_path / "weights.safetensors"
    bench_evals.write_weights(path)
    yield path
    path.unlink()


def test_every_figure_is_clip_benchmarks(tmp_path: Path, real_data: Path, weights: Path) -> None:
    """Our figures could not be set beside published ones: another resize, prompt, normalisation, tie or metric."""
    tasks = cut_sets(real_data / "wds", tmp_path / "data", SMALL)
    setting = Setting(model=f"ViT-B-32:{weights}", root=tmp_path / "data", tasks=tasks, batch_size=BATCH, threads=1)
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours = bench_evals.run_ours(setting, tmp_path / "ours")
    theirs = run_clip_benchmark(
        setting.model, setting.root, tasks, tmp_path / "theirs",
        batch_size=BATCH, workers=0, environment=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    pairs = pair_up(ours.metrics, theirs.metrics)
    assert len(pairs) == 4 * 3 + 6
    assert not [pair for pair in pairs if not pair.agrees]
