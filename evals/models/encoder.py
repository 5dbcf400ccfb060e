"""One protocol for every model that is measured, and the door to open_clip's models, ours or anyone's."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.hints import nearest
from pineco.evals.models.short_text import ShortText
from pineco.evals.models.timm_images import PREFIX, TimmEncoder

Precision = Literal["fp32", "bf16"]

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
RANDOM_SEED = 0  # of a model without weights, so that a chance-level baseline is the same everywhere
_LOCAL_DIR = "local-dir:"

log = logging.getLogger(__name__)


class Encoder(Protocol):
    """What an evaluation needs of a model; D is the width of the space that images and texts share."""

    name: str  # for people
    identity: str  # for machines: equal only where the weights are
    device: torch.device  # where it computes
    precision: Precision  # of its towers

    def preprocess(self, image: Image.Image) -> Tensor:
        """(3, H, W) float32 of one RGB image, resized and normalised as the model wants it. Thread-safe."""

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, D) float32 on the CPU, L2-normalised, of (B, 3, H, W) float32 from `preprocess`."""

    def encode_texts(self, texts: list[str]) -> Tensor:
        """(T, D) float32 on the CPU, L2-normalised, of T texts."""


def load_encoder(model: str, *, device: str = "cpu", precision: Precision = "fp32") -> Encoder:
    """An encoder from an export directory or by open_clip name.

    `model` is a directory with open_clip_config.json and open_clip_model.safetensors (DIR or local-dir:DIR),
    or an open_clip NAME:PRETRAINED, where PRETRAINED is one of open_clip's tags or a local weights file, or a
    bare NAME, which is a model with random weights; timm:NAME[:WEIGHTS] is a backbone of timm, for images only.
    "bf16" runs the towers under autocast. The global random state is left alone, and no pickled code is run.
    Raises InputError for what cannot be found or loaded.
    """
    target = check_device(device)
    if model.startswith(PREFIX):
        return TimmEncoder(model, target, precision)
    source = _find_source(model)
    module, preprocess, tokenizer = _load_open_clip(source)
    log.info("model %s, identity %s, %s on %s", source.name, source.identity, precision, device)
    return _OpenClipEncoder(source, module.to(target).eval(), preprocess, tokenizer, target, precision)


@dataclass(frozen=True)
class _Source:
    name: str
    identity: str
    open_clip_name: str
    pretrained: str | None = None  # tag or path; None for directories and random weights


class _OpenClipEncoder:
    """Encoder over a CLIP model of open_clip.

    Its parameters are not frozen: with requires_grad off, PyTorch takes another path through the vision tower
    and features differ from stock open_clip's in the last bits.
    """

    def __init__(
        self,
        source: _Source,
        module: torch.nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.name, self.identity = source.name, source.identity
        self._module: Any = module
        self._preprocess, self._tokenizer = preprocess, tokenizer
        self._text = ShortText(module)
        self.device, self.precision = device, precision

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._preprocess(image)

    def encode_images(self, images: Tensor) -> Tensor:
        return self._run(self._module.encode_image, images)

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self._run(self._text.encode, self._tokenizer(texts))

    def _run(self, tower: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Normalised in float32, after autocast: bf16 would round unit length to three digits."""
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            features = tower(inputs.to(self.device, non_blocking=True))
        return F.normalize(features.float(), dim=-1).cpu()


def check_device(device: str) -> torch.device:
    """What `--device` means; raises InputError for what is not here."""
    try:
        target = torch.device(device)
    except RuntimeError:
        raise InputError(f"--device {device!r}: no such kind of device; use cpu, cuda or cuda:0") from None
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {device}: {torch.cuda.device_count()} CUDA devices are visible here; use cpu")
    return target


def _find_source(model: str) -> _Source:
    """What `model` means; raises InputError where it is neither a directory nor a model."""
    import open_clip  # seconds: only who loads a model pays

    if model.startswith(_LOCAL_DIR) or Path(model).is_dir():
        return _directory_source(Path(model.removeprefix(_LOCAL_DIR)))
    name, _, pretrained = model.partition(":")
    known = open_clip.list_models()
    if name.replace("/", "-") not in known:
        near = nearest(name, known)
        raise InputError(f"--model {model}: neither a directory nor an open_clip model; nearest model is {near}")
    name = name.replace("/", "-")
    if not pretrained:
        log.warning("%s: no weights were named, so they are RANDOM (seed %d): expect chance", name, RANDOM_SEED)
        return _Source(f"{name} (random weights)", f"open_clip:{name}:random-seed-{RANDOM_SEED}", name)
    if Path(pretrained).is_file():
        return _Source(model, _sha256(Path(pretrained)), name, pretrained)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        raise InputError(f"--model {model}: no weights file or tag {pretrained!r}; tags: {', '.join(tags) or 'none'}")
    return _Source(model, f"open_clip:{name}:{pretrained}", name, pretrained)


def _directory_source(path: Path) -> _Source:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            advice = _exports_below(path) or f"an export directory has {CONFIG_FILE} and {WEIGHTS_FILE}"
            raise InputError(f"--model {path}: holds no {name}; {advice}")
    return _Source(str(path), _sha256(path / WEIGHTS_FILE), f"{_LOCAL_DIR}{path}")


def _exports_below(path: Path) -> str:
    """Where a run directory, or a checkpoint of it, was named: what to name instead; empty for any other."""
    found = sorted((*path.glob("export"), *path.glob("checkpoints/step_*/export"), *path.glob("step_*/export")))
    return f"name an export below it, such as {found[-1]}" if found else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _load_open_clip(
    source: _Source,
) -> tuple[torch.nn.Module, Callable[[Image.Image], Tensor], Callable[..., Tensor]]:
    """(model on the CPU, its evaluation transform, its tokenizer)."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(RANDOM_SEED)  # torch.manual_seed would reseed CUDA as well
            model = open_clip.create_model(source.open_clip_name, source.pretrained, weights_only=True)
        preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        return model, preprocess, open_clip.get_tokenizer(source.open_clip_name)
    except Exception as error:  # a bad config, a failed download, weights that do not fit: each has its own kind
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"--model {source.name}: open_clip cannot load it ({type(error).__name__}: {reason})"
        ) from error
