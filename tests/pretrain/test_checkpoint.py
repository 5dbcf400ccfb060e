"""Checkpoints: exact, verified, atomic, loadable by stock open_clip."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.loader import DataPosition
from pineco.pretrain.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    prune,
    save_checkpoint,
    verify,
)
from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.objectives.clip import Clip
from pineco.pretrain.objectives.perceptual_init import PerceptualInit
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.trainer import TrainState
from tests.support.ranks import TINY_CLIP

STATE = TrainState(3, 48, DataPosition(1, 2))


class _Engine:
    """Remembers what a checkpoint gave it."""

    def __init__(self, objective: Any) -> None:
        self.objective = objective
        self.given: tuple[dict[str, Tensor], int] | None = None

    def load_state(self, moments: dict[str, Tensor], step: int) -> None:
        self.given = (moments, step)


def _clip(seed: int = 0) -> Clip:
    return Clip(load_recipe("clip_toy", [f"model={TINY_CLIP}", f"seed={seed}"]), RankInfo())


def _save(folder: Path, step: int = 3, seed: int = 0) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    training = {"exp_avg/model.logit_scale": torch.tensor([0.5])}
    state = TrainState(step, 16 * step, DataPosition(1, 2))
    return save_checkpoint(folder, exported=_clip(seed).exported(), training=training, state=state)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """A resumed run would start from other weights, moments or data."""
    checkpoint = _save(tmp_path)
    engine: Any = _Engine(_clip(seed=1))
    assert load_checkpoint(checkpoint, engine) == STATE
    for name, tensor in _clip(seed=0).state_dict().items():
        assert torch.equal(engine.objective.state_dict()[name], tensor), name
    assert engine.given == ({"exp_avg/model.logit_scale": torch.tensor([0.5])}, 3)


@pytest.mark.parametrize("name", ["export/open_clip_model.safetensors", "training.safetensors", "state.json"])
def test_a_changed_byte_or_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    """Damage would be trained on in silence."""
    older, checkpoint = _save(tmp_path, step=1), _save(tmp_path)
    path = checkpoint.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged.*remove .*step 1") as error:
        load_checkpoint(checkpoint, _Engine(_clip()))  # type: ignore[arg-type]
    assert name in str(error.value)
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        verify(checkpoint)
    verify(older)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    """A cut manifest would end in a traceback."""
    checkpoint = _save(tmp_path)
    manifest = checkpoint.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"manifest\.json: missing or damaged"):
        verify(checkpoint)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint, not for two."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", place]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(small_disk: Path) -> None:
    """The newest checkpoint would be half-written, or the old one gone."""
    _save(small_disk, step=1)
    with pytest.raises(InputError, match=r"No space left.*step 1 is intact.*--resume"):
        _save(small_disk, step=2)
    assert [p.name for p in small_disk.iterdir()] == ["step_00000001"]
    verify(Checkpoint(small_disk / "step_00000001"))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_before_publication_leaves_no_checkpoint(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name `step_*` would stand for an incomplete directory."""

    replace = Path.replace

    def crash(what: Path | int, *to: Path) -> Path:
        if isinstance(what, Path) and not what.is_dir():  # a file of another thread
            return replace(what, *to)
        raise KeyboardInterrupt

    _save(tmp_path, step=1)
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, crash)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, step=2)
    assert [c.step for c in list_checkpoints(tmp_path)] == [1]
    assert _save(tmp_path, step=2).step == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


def test_prune_keeps_every_encoder_and_the_newest_training_states(tmp_path: Path) -> None:
    """The disk would fill with optimizer states, or an old encoder would fail its own manifest."""
    checkpoints = [_save(tmp_path, step) for step in (1, 2, 3)]
    prune(tmp_path, keep=2)
    assert [(c.path / "training.safetensors").is_file() for c in checkpoints] == [False, True, True]
    for checkpoint in checkpoints:
        verify(checkpoint)
    with pytest.raises(InputError, match="keeps no training state"):
        load_checkpoint(checkpoints[0], _Engine(_clip()))  # type: ignore[arg-type]


def test_another_model_is_refused(tmp_path: Path) -> None:
    """Weights of another shape would end in a traceback."""
    checkpoint = _save(tmp_path)
    other = Clip(load_recipe("clip_toy"), RankInfo())
    with pytest.raises(InputError, match="another model than the recipe's"):
        load_weights(checkpoint, other)


def test_stock_open_clip_loads_the_export_with_the_same_features(tmp_path: Path) -> None:
    """Nobody outside could use what is trained here."""
    checkpoint, ours = _save(tmp_path), _clip().model.eval()
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{checkpoint.export}")
    tokens = open_clip.get_tokenizer(f"local-dir:{checkpoint.export}")(["a red star", "two blue rings"])
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), ours.encode_image(images))
        assert torch.equal(model.encode_text(tokens), ours.encode_text(tokens))
    assert tokens.shape == (2, 32)
    assert "Resize" in str(preprocess)


def test_perceptual_initialisation_starts_clip_with_its_image_tower(tmp_path: Path) -> None:
    """`init: perceptual` would be `init: random`; or the text tower would differ from the baseline's."""
    recipe = load_recipe("pi_toy", [f"model={TINY_CLIP}", "seed=0"])
    objective = PerceptualInit(recipe, RankInfo())
    assert {n.split(".")[1] for n, p in objective.named_parameters() if p.requires_grad} == {"visual"}
    torch.nn.init.ones_(objective.model.visual.proj)
    checkpoint = save_checkpoint(tmp_path, exported=objective.exported(), training={}, state=STATE)
    clip, random = _clip(), _clip()
    load_weights(checkpoint, clip)
    changed = {n for n, t in clip.state_dict().items() if not torch.equal(t, random.state_dict()[n])}
    assert changed == {"model.visual.proj"}


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    """A file outside the manifest would not be verified."""
    checkpoint = _save(tmp_path)
    listed = set(json.loads((checkpoint.path / "manifest.json").read_text())["files"])
    there = {str(p.relative_to(checkpoint.path)) for p in checkpoint.path.rglob("*") if p.is_file()}
    assert there == listed | {"manifest.json"}
