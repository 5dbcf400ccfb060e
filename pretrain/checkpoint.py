"""A checkpoint is a directory of safetensors and JSON whose manifest of sha256 sums is written last.

    checkpoints/step_00000460/
        export/open_clip_config.json        stock open_clip loads `local-dir:` on this folder (timm: config.json)
        export/open_clip_model.safetensors  the weights; not stored a second time (timm: model.safetensors)
        export/...                          adapters and the like, where the objective has them
        training.safetensors                Adam's moments, and what the objective keeps beside the exported model
        state.json                          step, samples seen, data position
        manifest.json                       sha256 and bytes of every file above

It is written under a temporary name, flushed to disk and published by one rename, so that a directory called
`step_*` is complete or damaged by something else, which the sums then show.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import flush_to_disk, replacing
from pineco.data_pipeline.loader import DataPosition
from pineco.pretrain.engine import Engine
from pineco.pretrain.models.export import EXPORT, FORMATS, Exported
from pineco.pretrain.objectives.base import Objective
from pineco.pretrain.run_files import MANIFEST, STEP, step_name, step_of
from pineco.pretrain.trainer import TrainState

SCHEMA = 1
TRAINING, STATE = "training.safetensors", "state.json"
MODULE = "module/"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint directory."""

    path: Path

    @property
    def step(self) -> int:
        return step_of(self.path.name)

    @property
    def export(self) -> Path:
        """The directory that stock open_clip and evals load."""
        return self.path / EXPORT


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Published checkpoints, oldest first."""
    return [Checkpoint(p) for p in sorted(folder.glob(f"{STEP}*")) if (p / MANIFEST).is_file()]


def gather_tensors(engine: Engine) -> tuple[Exported, dict[str, Tensor]]:
    """(exported files, training state), tensors on the CPU. Every rank must call it."""
    moments = engine.optimizer_state()
    exported = {name: _on_cpu(x) if isinstance(x, dict) else x for name, x in engine.objective.exported().items()}
    kept = {MODULE + name: tensor for name, tensor in engine.objective.kept().items()}
    return exported, {**moments, **_on_cpu(kept)}


def save_checkpoint(
    folder: Path, *, exported: Exported, training: Mapping[str, Tensor], state: TrainState
) -> Checkpoint:
    """Writes and publishes `folder/step_NNNNNNNN`; one rank calls it.

    Raises InputError where the disk is full or not writable: nothing is left behind, older checkpoints are intact.
    """
    final = folder / step_name(state.step)
    weights = [item for part in exported.values() if isinstance(part, dict) for item in part.items()]
    if broken := [name for name, tensor in weights if not tensor.isfinite().all()]:
        raise InputError(f"{final}: not saved: {broken[0]} is not finite, the run has diverged; {_intact(folder)}")
    files = {name: save(part) if isinstance(part, dict) else part for name, part in exported.items()}
    files |= {TRAINING: save(dict(training)), STATE: json.dumps(asdict(state), indent=2).encode()}
    files[MANIFEST] = _manifest({n: (_sha256(d), len(d)) for n, d in files.items()})
    try:
        for left in folder.glob(f".{STEP}*.tmp"):  # by a process that was killed: no run has the room for many of them
            shutil.rmtree(left, ignore_errors=True)
        with replacing(final, sync=True) as temporary:
            _write_files(temporary, files)
            if final.exists():  # left by a run that was resumed from an earlier step: it goes when the new one is safe
                flush_to_disk(temporary)
                shutil.rmtree(final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{final}: not saved: {reason}; {_intact(folder)}. Make room, then --resume") from None
    return Checkpoint(final)


def verify(checkpoint: Checkpoint) -> None:
    """Raises InputError naming the file that is missing, cut or changed."""
    for name, (digest, size) in _read_manifest(checkpoint).items():
        path = checkpoint.path / name
        if not path.is_file():
            raise InputError(f"{path}: missing, though the manifest lists it; {_mend(checkpoint)}")
        if path.stat().st_size != size or _sha256_file(path) != digest:
            raise InputError(f"{path}: damaged, its sha256 is not the manifest's; {_mend(checkpoint)}")


def load_checkpoint(checkpoint: Checkpoint, engine: Engine) -> TrainState:
    """Verifies, then puts weights, moments and the objective's other state into the engine."""
    verify(checkpoint)
    if not (checkpoint.path / TRAINING).is_file():
        raise InputError(f"{checkpoint.path}: keeps no training state (see checkpoint.keep); resume from a newer one")
    state = json.loads((checkpoint.path / STATE).read_text())
    training = load_file(checkpoint.path / TRAINING)
    kept = {k.removeprefix(MODULE): t for k, t in training.items() if k.startswith(MODULE)}
    weights = load_file(checkpoint.path / weights_files(checkpoint)[0])
    with _named(checkpoint):
        engine.objective.restore(weights, kept)
    moments = {k: t for k, t in training.items() if not k.startswith(MODULE)}
    engine.load_state(moments, state["step"])
    return TrainState(state["step"], state["samples_seen"], DataPosition(**state["data"]))


def load_weights(checkpoint: Checkpoint, objective: Objective) -> None:
    """Starts a run from the exported model of another one, e.g. CLIP from perceptual initialisation."""
    verify(checkpoint)
    with _named(checkpoint):
        objective.adopt(load_file(checkpoint.path / weights_files(checkpoint)[0]))


def prune(folder: Path, keep: int) -> None:
    """Drops the training state of all but the newest `keep` checkpoints; exported encoders stay."""
    for checkpoint in list_checkpoints(folder)[:-keep]:
        files = _read_manifest(checkpoint)
        if TRAINING in files:
            files = {name: entry for name, entry in files.items() if name != TRAINING}
            with replacing(checkpoint.path / MANIFEST, sync=True) as manifest:
                manifest.write_bytes(_manifest(files))
            (checkpoint.path / TRAINING).unlink()


@contextmanager
def _named(checkpoint: Checkpoint) -> Iterator[None]:
    """Tensors that do not fit, as one line that names the checkpoint."""
    try:
        yield
    except RuntimeError as error:
        what = str(error).strip().splitlines()[1:2] or [str(error)]
        raise InputError(f"{checkpoint.path}: holds another model than the recipe's: {what[0].strip()[:200]}") from None


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Of the exported weights, as the manifest says; of the sums of all, where there are several models."""
    listed = _read_manifest(checkpoint)
    sums = [listed[name][0] for name in weights_files(checkpoint)]
    return sums[0] if len(sums) == 1 else _sha256("".join(sums).encode())


def weights_files(checkpoint: Checkpoint) -> list[str]:
    """The names of the exported weights in it, one a model; InputError where the manifest lists none."""
    endings = tuple(Path(name).name for _, name in FORMATS)
    found = [n for n in _read_manifest(checkpoint) if n.startswith(f"{EXPORT}/") and Path(n).name in endings]
    if not found:
        raise InputError(f"{checkpoint.path / MANIFEST}: lists no exported weights; {_mend(checkpoint)}")
    return sorted(found)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _manifest(files: Mapping[str, tuple[str, int]]) -> bytes:
    entries = {name: {"sha256": digest, "bytes": size} for name, (digest, size) in files.items()}
    return json.dumps({"schema": SCHEMA, "safetensors": safetensors.__version__, "files": entries}, indent=2).encode()


def _read_manifest(checkpoint: Checkpoint) -> dict[str, tuple[str, int]]:
    path = checkpoint.path / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {manifest['schema']}, this version reads {SCHEMA}")
        return {name: (entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: missing or damaged; {_mend(checkpoint)}") from None


def _mend(checkpoint: Checkpoint) -> str:
    older = [c.step for c in list_checkpoints(checkpoint.path.parent) if c.step < checkpoint.step]
    then = f"--resume then goes on from step {older[-1]}" if older else "there is no older one"
    return f"remove {checkpoint.path}, {then}"


def _intact(folder: Path) -> str:
    older = list_checkpoints(folder)
    return f"the checkpoint of step {older[-1].step} is intact" if older else "there is no older checkpoint"


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by name below a folder; the last one last."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
