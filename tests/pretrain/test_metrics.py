"""What a run says while it trains."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from pineco.data_pipeline.loader import LoaderStats
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.metrics import StepLog
from pineco.pretrain.objectives.base import StepOutput
from pineco.pretrain.trainer import TrainState


class Loader:
    """Has found two bad samples."""

    stats = LoaderStats(quarantined=2)


def test_the_line_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever watches a run on a cluster would not see how fast it is, when it ends, or what is wrong with its data."""
    log = StepLog(
        tmp_path,
        "clip",
        steps=10,
        every=1,
        lr=lambda step: 0.1,
        ranks=RankInfo(),
        start=TrainState(4, 400),
        loader=Loader(),
        board=None,
    )
    for step in (5, 6, 10):
        log(TrainState(step, 100 * step), StepOutput(torch.tensor(1.25)))
    log.close()
    first, last = capsys.readouterr().err.splitlines()
    speed = r"\d+ samples/s 0\.0 MB/s wait 0 % quarantined 2"
    assert re.fullmatch(rf"clip step 5/10 loss 1\.2500 {speed} ETA \d+ s", first)
    assert re.fullmatch(rf"clip step 10/10 loss 1\.2500 {speed} ETA 0 s", last)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 6, 10]
