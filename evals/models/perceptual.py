"""A model's perceptual distance: 1 - cosine of the features of two images, as in DreamSim (arXiv 2306.09344)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.transforms import resize_square, to_tensor
from pineco.evals.models.aligned_export import (
    DESCRIPTION_FILE,
    HEAD_FILE,
    FeatureHead,
    Features,
    read_description,
    read_head,
)
from pineco.evals.models.load import check_device, load_model
from pineco.evals.models.model import Model, Precision, check_size, file_identity

Pictures = Tensor | Image.Image | Sequence[Image.Image]

log = logging.getLogger(__name__)


def load_perceptual(
    model: str | Path,
    *,
    features: Features | None = None,
    mean_centre: bool = False,
    image_size: int | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> PerceptualModel:
    """The distance of an aligned model, or of any model that `pineco.load_model` knows.

        distance = load_perceptual("runs/NAME/checkpoints/step_N/export")
        distance(image, other)  # (1,) tensor in [0, 2]

    model: a directory with perceptual.json, which says what is compared; or what `load_model` takes.
    features: cls, the class token before the last norm (the default); embedding, what the model itself gives for an
    image; cls_patch, the class token and the mean of the patch tokens, before the norm, too (arXiv 2410.10817). An
    aligned model has its own. mean_centre: see `PerceptualModel`. image_size: pixels of a side, instead of the model's
    own. Raises InputError for what cannot be found, loaded or compared so.
    """
    target, path = check_device(device), Path(model)
    load = partial(load_model, device=device, precision=precision)
    if (path / DESCRIPTION_FILE).is_file():
        said = read_description(path)
        if features is not None and {features} != {member.features for member in said.members}:
            kinds = ", ".join(member.features for member in said.members)
            raise InputError(f"--features {features}: {path / DESCRIPTION_FILE} says {kinds}; leave the option out")
        parts = [_Member(load(path / one.folder), one.features) for one in said.members]
        head = read_head(path, said.hidden, said.width) if said.hidden else None
        size, mean_centre = image_size or said.image_size, mean_centre or said.mean_centre
    else:
        loaded = load(model)
        parts, head, size = [_Member(loaded, features or "cls")], None, image_size or loaded.image_size
    identity = parts[0].identity if len(parts) == 1 and head is None else _joined(path, parts, head)
    name = str(model) if len(parts) > 1 or head else parts[0].name
    found = PerceptualModel(name, identity, parts, head, size, target, precision, mean_centre=mean_centre)
    log.info("model %s, identity %s, %s, %s on %s", name, identity, ", ".join(found.features), precision, device)
    return found


class PerceptualModel:
    """Callable: the distance of images to images.

    mean_centre: as the released DreamSim compares, the mean over its own features is taken from each vector, which then
    gets unit length. With patches these are the tokens, before they are pooled; else it is the whole vector.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        members: Sequence[_Member],
        head: FeatureHead | None,
        image_size: int,
        device: torch.device,
        precision: Precision,
        *,
        mean_centre: bool = False,
    ) -> None:
        self.name, self.identity, self.image_size = name, identity, image_size
        self.features: tuple[Features, ...] = tuple(member.features for member in members)
        self.device, self.precision, self.mean_centre = device, precision, mean_centre
        self._members, self._head = list(members), head and head.to(device)
        self.width = self._probe()

    def __call__(self, a: Pictures, b: Pictures) -> Tensor:
        """(B,) float32 on the model's device, in [0, 2]: how far each image of `a` is from that of `b`; one is enough
        on either side.

        a, b: a PIL image, several, or (B, 3, S, S), float in [0, 1] or uint8, S = image_size. Gradients reach images.
        """
        first, second = (self.vectors(self._batch(images)) for images in (a, b))
        if 1 not in (len(first), len(second)) and len(first) != len(second):
            raise InputError(f"{len(first)} images against {len(second)}: give as many, or one")
        return cosine_distance(first, second)

    def preprocess(self, image: Image.Image | np.ndarray) -> Tensor:
        """(3, S, S) uint8, squashed to a square as in training, of a PIL image or (H, W, 3) uint8. Thread-safe."""
        pixels = np.array(image.convert("RGB")) if isinstance(image, Image.Image) else image
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InputError(f"pixels of shape {pixels.shape} and type {pixels.dtype}: must be (H, W, 3) uint8")
        return resize_square(to_tensor(pixels), self.image_size)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, width) float32 on the CPU, of (B, 3, S, S), uint8 from `preprocess` or float in [0, 1]."""
        return self.vectors(images).cpu()

    def vectors(self, images: Tensor) -> Tensor:
        """As `encode`, on the model's device and with gradients to the images."""
        self._check(images)
        pixels = images.to(self.device, non_blocking=True)
        pixels = pixels.float() if images.is_floating_point() else pixels.float() / 255
        pooled = "cls_patch" in self.features
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            parts = [member.vectors(pixels, centre=self.mean_centre and pooled) for member in self._members]
        found = torch.cat([part.float() for part in parts], dim=1)
        found = found if self._head is None else self._head(found)
        return _centred(found) if self.mean_centre and not pooled else found

    def _batch(self, images: Pictures) -> Tensor:
        if isinstance(images, Tensor):
            return images
        return torch.stack([self.preprocess(one) for one in ([images] if isinstance(images, Image.Image) else images)])

    def _check(self, images: Tensor) -> None:
        size = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size) or not len(images):
            shape = tuple(images.shape)
            raise InputError(f"images of shape {shape}: must be (B, 3, {size}, {size}), as `preprocess` makes them")
        if images.is_floating_point():
            low, high = (float(value) for value in images.detach().aminmax())
            if not (low >= 0 and high <= 1):  # NaN, too
                raise InputError(f"pixels from {low:g} to {high:g}: floats must be in [0, 1], not normalised")
        elif images.dtype != torch.uint8:
            raise InputError(f"images of type {images.dtype}: must be uint8, or floats in [0, 1]")

    def _probe(self) -> int:
        """The width of the vectors; a blank image shows at once what does not fit."""
        size, blank = self.image_size, torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
        for member in self._members:
            if "tokens" in member.model.capabilities:
                check_size(size, member.model.patch_size)
        try:
            with torch.no_grad():
                width = sum(member.vectors(blank, centre=False).shape[1] for member in self._members)
        except (RuntimeError, AssertionError, ValueError) as error:  # a convnet's, a window attention's: all differ
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"--model {self.name}: takes no images of {size} x {size} pixels ({reason})") from error
        if self._head is not None and self._head.width != width:
            raise InputError(f"{self.name}/{HEAD_FILE}: for {self._head.width} features; the members give {width}")
        return width


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of rows, in [0, 2]: (B, D), (B, D) -> (B,)."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1)


class _Member:
    """One backbone and what is taken of it."""

    def __init__(self, model: Model, features: Features) -> None:
        """Freezes the model: gradients reach images, not weights."""
        self.model, self.features, self.name, self.identity = model, features, model.name, model.identity
        if features not in get_args(Features):
            raise InputError(f"--features {features}: must be one of {', '.join(get_args(Features))}")
        if features != "embedding":
            model.require("class_token")
        model.module.requires_grad_(False)

    def vectors(self, pixels: Tensor, *, centre: bool) -> Tensor:
        """(B, D) of (B, 3, S, S) in [0, 1]; 2 D for cls_patch. centre: every token before tokens are pooled."""
        images = self.model.normalise(pixels)
        if self.features == "embedding":
            found = self.model.forward_image(images)
            return _centred(found) if centre else found
        tokens = self.model.forward_tokens(images, norm=False)
        tokens = _centred(tokens) if centre else tokens
        if self.features == "cls":
            return tokens[:, 0]
        return torch.cat((tokens[:, 0], tokens[:, self.model.num_prefix_tokens :].mean(dim=1)), dim=1)


def _centred(x: Tensor) -> Tensor:
    """Rows of (..., D) without their mean, of unit length."""
    x = x.float()
    return F.normalize(x - x.mean(dim=-1, keepdim=True), dim=-1)


def _joined(path: Path, members: Sequence[_Member], head: FeatureHead | None) -> str:
    parts = [member.identity for member in members]
    parts += [file_identity(path / HEAD_FILE)] if head is not None else []
    return f"sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
