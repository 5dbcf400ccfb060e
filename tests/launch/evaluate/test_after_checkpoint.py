"""Checkpoints of a run are measured once each, by their weights, in one process or by several jobs."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pineco.evals.report.write import read_reports
from pineco.launch.evaluate.after_checkpoint import Evaluator, is_measured, report_path, task_groups
from pineco.pretrain.checkpoint import MANIFEST, SCHEMA, Checkpoint
from pineco.pretrain.models.export import OPEN_CLIP
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe

CONFIG, WEIGHTS = OPEN_CLIP
CPU = torch.device("cpu")
CONTENT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


def write_set(root: Path, *, damaged: bool = False) -> None:
    """Six grey images of stl10's ten classes, or of any other set with as many."""
    (root / "test").mkdir(parents=True)
    with tarfile.open(root / "test" / "0.tar", "w") as archive:
        for number in range(6):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (40 * number,) * 3).save(buffer, "PNG")
            image = buffer.getvalue()[: 40 if damaged else None]
            for extension, content in (("png", image), ("cls", b"%d" % number)):
                info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(f"shade {n}" for n in range(10)))
    (root / "zeroshot_classification_templates.txt").write_text("a {c} image")


def write_checkpoint(run: Path, *, seed: int = 0) -> Checkpoint:
    import open_clip
    from safetensors.torch import save

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = open_clip.CLIP(**json.loads(json.dumps(CONTENT))).state_dict()
    path = run / "checkpoints" / "step_00000004"
    (path / "export").mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.contiguous() for name, tensor in weights.items()})
    (path / WEIGHTS).write_bytes(data)
    (path / CONFIG).write_text(json.dumps({"model_cfg": CONTENT}))
    (path / "state.json").write_text(json.dumps({"step": 4, "samples_seen": 64}))
    files = {WEIGHTS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    (path / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "files": files}))
    return Checkpoint(path)


def make(tmp_path: Path, tasks: str) -> tuple[Path, Recipe]:
    run, data = tmp_path / "run", tmp_path / "data"
    recipe = load_recipe("clip_toy", [f"evaluation.data={data}", f"evaluation.tasks={tasks}", "data.workers=1"])
    return run, recipe


def test_a_report_is_of_the_weights_that_it_says(tmp_path: Path) -> None:
    """A step that is trained again, from other weights, would keep the figures of the first time."""
    write_set(tmp_path / "data" / "stl10")
    run, recipe = make(tmp_path, "stl10")
    checkpoint, evaluator = write_checkpoint(run), Evaluator(run, recipe, CPU)
    assert not is_measured(run, recipe, checkpoint)
    evaluator.measure(checkpoint)
    assert is_measured(run, recipe, checkpoint)
    written = report_path(run, checkpoint).stat().st_mtime_ns
    evaluator.measure(checkpoint)
    assert report_path(run, checkpoint).stat().st_mtime_ns == written, "measured twice"
    assert not is_measured(run, load_recipe("clip_toy", ["evaluation.data=x", "evaluation.tasks=mnist"]), checkpoint)
    write_checkpoint(run, seed=1)
    assert not is_measured(run, recipe, checkpoint)
    before = read_reports(report_path(run, checkpoint))[0].identity
    evaluator.measure(checkpoint)
    assert read_reports(report_path(run, checkpoint))[0].identity != before


def test_groups_come_together(tmp_path: Path) -> None:
    """A report of some jobs' tasks would look like that of all; or none would ever be written."""
    for name in ("stl10", "cifar10", "vtab-eurosat"):
        write_set(tmp_path / "data" / name)
    run, recipe = make(tmp_path, "stl10,cifar10,vtab/eurosat")
    checkpoint, evaluator = write_checkpoint(run), Evaluator(run, recipe, CPU)
    assert task_groups(recipe) == {"general": ["stl10", "cifar10"], "vtab": ["vtab/eurosat"]}
    evaluator.measure_group(checkpoint, "vtab")
    assert not report_path(run, checkpoint).exists()
    evaluator.measure_group(checkpoint, "general")
    report = read_reports(report_path(run, checkpoint))[0]
    assert [result.task for result in report.results] == ["stl10", "cifar10", "vtab/eurosat"]
    assert (report.step, report.samples_seen) == (4, 64)
    assert is_measured(run, recipe, checkpoint)
    assert (run / "report.html").is_file()
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert board.Scalars("eval/stl10/acc1")[0].step == 4


def test_a_group_without_figures_is_named_in_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One damaged benchmark would keep the report of the others from being written."""
    write_set(tmp_path / "data" / "stl10")
    write_set(tmp_path / "data" / "vtab-eurosat", damaged=True)
    run, recipe = make(tmp_path, "stl10,vtab/eurosat")
    checkpoint, evaluator = write_checkpoint(run), Evaluator(run, recipe, CPU)
    evaluator.measure_group(checkpoint, "general")
    with caplog.at_level(logging.ERROR, "pineco"):
        evaluator.measure_group(checkpoint, "vtab")
    report = read_reports(report_path(run, checkpoint))[0]
    assert [result.task for result in report.results] == ["stl10"]
    assert "6 of 6 samples" in report.failed["vtab/eurosat"]
    assert "vtab/eurosat has no figure" in caplog.text
