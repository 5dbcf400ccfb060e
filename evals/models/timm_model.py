"""Backbones of timm: by name, or from a directory in timm's hub format. They have no text tower."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.models.model import Model, TokenReader, file_identity, loading

PREFIX = "timm:"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_HUB = "pretrained"  # instead of a file: timm's own weights, which it downloads
_ANY_SIZE = "dynamic_img_size"  # timm's option that resamples position embeddings to the image at hand


def load_timm(address: str) -> Model:
    """timm:NAME:FILE.safetensors, timm:NAME:pretrained, or timm:NAME, which has random weights (seed 0).

    Raises InputError for what cannot be found or loaded.
    """
    name, _, weights = address.removeprefix(PREFIX).partition(":")
    _check(address, name, weights)
    file = Path(weights) if weights not in ("", _HUB) else None
    module, any_size = _at_any_size(partial(_create, address, name, file, pretrained=weights == _HUB))
    identity = f"timm:{name}:{weights or 'random-seed-0'}" if file is None else file_identity(file)
    return _model(module, address if weights else f"{address} (random weights)", identity, any_size)


def load_timm_directory(path: Path) -> Model:
    """timm's hub format; what the file says is data, and its architecture must be one that timm knows.

    Raises InputError for what cannot be found or loaded.
    """
    import timm

    weights, where = path / WEIGHTS_FILE, path / CONFIG_FILE
    if not weights.is_file():
        raise InputError(f"--model {path}: holds no {WEIGHTS_FILE}; other files may hold code and are not read")
    try:
        config = json.loads(where.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: no JSON ({error}); export the model again") from None
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(f"{where}: its architecture, {architecture!r:.80}, is none of timm's")
    arguments, shown = (_mapping(config, key, where) for key in ("model_args", "pretrained_cfg"))
    given = {"num_classes": config.get("num_classes", 0), **arguments}
    given.pop(_ANY_SIZE, None)
    module, any_size = _at_any_size(partial(_create, str(path), architecture, weights, **given))
    module.pretrained_cfg = {**module.pretrained_cfg, **shown}
    return _model(module, str(path), file_identity(weights), any_size)


def _check(address: str, name: str, weights: str) -> None:
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=1, cutoff=0.0)[0]
        raise InputError(f"--model {address}: timm has no {name!r}; nearest model is {PREFIX}{near}")
    if weights in ("", _HUB):
        return
    if not Path(weights).is_file():
        raise InputError(f"--model {address}: no weights file {weights}; give a .safetensors file or {_HUB!r}")
    if Path(weights).suffix != ".safetensors":
        raise InputError(f"--model {address}: {weights} is no .safetensors file; others may hold code and are not read")


def _mapping(config: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be a JSON object, not {value!r:.60}")
    return value


def _at_any_size(create: Callable[..., Any]) -> tuple[Any, bool]:
    """(module, whether it takes images of any size); architectures that know no such option are made without it."""
    try:
        return create(**{_ANY_SIZE: True}), True
    except InputError as error:
        if _ANY_SIZE not in str(error):
            raise
        return create(), False


def _create(model: str, architecture: str, weights: Path | None, **options: Any) -> Any:
    """timm's architecture on the CPU, without its classifier, random (seed 0) where there are no weights.

    model: for messages. weights: a .safetensors file. options: further arguments of the architecture.
    """
    import timm

    with loading(model, "timm"):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            module: Any = timm.create_model(architecture, **options)
        if weights is not None:
            _load(module, weights)
        module.reset_classifier(0)
    return module.eval()


def _load(module: Any, weights: Path) -> None:
    """Every tensor but those of the classifier, and no other: timm itself would leave random what does not fit."""
    head = tuple(f"{name}." for name in np.atleast_1d(module.default_cfg.get("classifier") or ()))
    missing, unexpected = module.load_state_dict(load_file(weights), strict=False)
    missing = [name for name in missing if not name.startswith(head)]
    if missing or unexpected:
        raise ValueError(f"lacks {', '.join(missing) or 'nothing'}, has unknown {', '.join(unexpected) or 'nothing'}")


def _model(module: Any, name: str, identity: str, any_size: bool) -> Model:
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(module)
    return Model(
        name=name,
        identity=identity,
        module=module,
        preprocess=create_transform(**config, is_training=False),
        image_size=max(config["input_size"][1:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        forward_image=module,
        token_reader=_token_reader(module, any_size),
    )


def _token_reader(module: Any, any_size: bool) -> TokenReader | None:
    """None for what is not a plain vision transformer."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if patch is None or not hasattr(module, "num_prefix_tokens"):
        return None
    has_class = getattr(module, "cls_token", None) is not None
    patch = (patch, patch) if isinstance(patch, int) else tuple(patch)
    prefix, width = module.num_prefix_tokens, module.num_features
    return TokenReader(partial(_tokens, module), prefix, has_class, patch, width, any_size)


def _tokens(module: Any, images: Tensor, norm: bool) -> Tensor:
    """(B, P + N, D) of (B, 3, H, W); before the norm for P > 0 alone."""
    if norm:
        found: Tensor = module.forward_features(images)
        return found
    options = {"output_fmt": "NLC", "intermediates_only": True, "return_prefix_tokens": True}
    patches, prefix = module.forward_intermediates(images, indices=1, norm=False, **options)[0]
    return torch.cat((prefix, patches), dim=1)
