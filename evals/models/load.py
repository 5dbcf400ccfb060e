"""One address for every model that is measured: an export directory, an open_clip model, a timm backbone."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from pineco.data_pipeline.errors import InputError
from pineco.evals.models import open_clip_model, timm_model
from pineco.evals.models.model import Model, Precision
from pineco.evals.models.open_clip_model import load_open_clip, load_open_clip_directory
from pineco.evals.models.timm_model import load_timm, load_timm_directory

_LOCAL_DIR = "local-dir:"

log = logging.getLogger(__name__)


def load_model(address: str | Path, *, device: str = "cpu", precision: Precision = "fp32") -> Model:
    """Any vision model, ready to be measured.

        model = load_model("runs/NAME/checkpoints/step_N/export")
        images = model.embed(torch.stack([model.preprocess(photo) for photo in photos]))  # (B, E)
        texts = model.encode_texts(model.tokenizer(["a photo of a dog", "a photo of a cat"]))  # (2, E)
        cosines = images @ texts.T  # (B, 2), in [-1, 1]

    address: a directory (DIR or local-dir:DIR) with open_clip_config.json and open_clip_model.safetensors, or with
    timm's config.json and model.safetensors; an open_clip NAME:WEIGHTS, where WEIGHTS is one of open_clip's tags or a
    local file, or a bare NAME, which has random weights; timm:NAME:FILE.safetensors, timm:NAME:pretrained, or
    timm:NAME, which has random weights. Random weights are the same everywhere (seed 0).

    device: cpu, cuda or cuda:N. precision: bf16 runs the model under autocast; what it gives is float32 anyway.

    `Model.capabilities` says what the model can do. All have `embed`: (B, 3, S, S) float32 from `preprocess` to (B, E)
    of unit length. Those with a text tower have `tokenizer` and `encode_texts`. Plain vision transformers have
    `tokens`: (B, 3, H, W) from `squash` to (B, H/p, W/p, D); where the architecture allows it, position embeddings are
    resampled to the size at hand, so that H and W are any whole numbers of patches.

    The global random state is left alone, and no pickled code is run. Raises InputError for what cannot be found or
    loaded, and for a device that is not here; the model raises it for what it cannot do.
    """
    target = check_device(device)
    model = _load(str(address)).to(target, precision)
    log.info("model %s, identity %s, %s on %s", model.name, model.identity, precision, device)
    return model


def check_device(device: str) -> torch.device:
    """What `--device` means; raises InputError for what is not here."""
    try:
        target = torch.device(device)
    except RuntimeError:
        raise InputError(f"--device {device!r}: no such kind of device; use cpu, cuda or cuda:0") from None
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {device}: {torch.cuda.device_count()} CUDA devices are visible here; use cpu")
    return target


def _load(address: str) -> Model:
    if address.startswith(timm_model.PREFIX):
        return load_timm(address)
    if address.startswith(_LOCAL_DIR) or Path(address).is_dir():
        return _load_directory(Path(address.removeprefix(_LOCAL_DIR)))
    return load_open_clip(address)


def _load_directory(path: Path) -> Model:
    if (path / open_clip_model.CONFIG_FILE).is_file():
        return load_open_clip_directory(path)
    if (path / timm_model.CONFIG_FILE).is_file():
        return load_timm_directory(path)
    configs = f"holds no {open_clip_model.CONFIG_FILE} and no {timm_model.CONFIG_FILE}"
    advice = _exports_below(path) or "name an export directory, of open_clip's format or of timm's"
    raise InputError(f"--model {path}: {configs}; {advice}")


def _exports_below(path: Path) -> str:
    """What to name instead of a run directory, or of a checkpoint in it; empty for any other."""
    found = sorted((*path.glob("export"), *path.glob("checkpoints/step_*/export"), *path.glob("step_*/export")))
    return f"name an export below it, such as {found[-1]}" if found else ""
