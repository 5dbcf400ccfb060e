"""Parameters, FLOPs and bytes of a CLIP from its open_clip config alone.

Imports neither torch nor open_clip: a login node answers in a moment.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pineco import pretrain
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.hints import did_you_mean

Precision = Literal["fp32", "bf16"]
BUCKET = 500_000_000  # values in DeepSpeed's buffer of the gradient exchange
GIB = 2**30
_OURS = Path(pretrain.__file__).parent / "models" / "model_configs"
_VISION = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
_SAME_SIZE = {  # keys that change neither the number of weights nor that of FLOPs
    "quick_gelu", "init_logit_scale", "output_tokens", "act_kwargs", "norm_kwargs", "hf_tokenizer_name",
    "tokenizer_mode", "tokenizer_kwargs", "no_causal_mask", "pad_id", "eos_id",
}  # fmt: skip
_POOL_ONE_TOKEN = ("tok", "argmax", "first", "last", "eos")


class NoEstimateError(InputError):
    """Nothing is wrong with the run, but no formula knows its objective or its architecture."""


@dataclass(frozen=True)
class Tower:
    """A transformer over `tokens` tokens of `width` values. Sizes are counts, FLOPs are of one sample."""

    layers: int
    width: int
    hidden: int  # width of the MLP
    tokens: int
    output: int  # embed_dim
    input_parameters: int  # embeddings, and the norm before the first layer
    input_flops: int  # of the patch embedding
    input_values: int  # pixels of an image, or 0
    patch: int = 0  # pixels of a patch's side, or 0
    prefix: int = 1  # tokens before those of patches: the class token, and registers
    pre_norm: bool = False  # a norm before the first layer
    layer_scale: bool = False  # both branches of a layer are multiplied by w learned values

    @property
    def layer_parameters(self) -> int:
        """4 w^2 + 4 w (attention), 2 w h + h + w (MLP), 4 w (two norms); 2 w of layer scale."""
        w, h = self.width, self.hidden
        return 4 * w * w + 4 * w + 2 * w * h + h + w + 4 * w + 2 * w * self.layer_scale

    @property
    def parameters(self) -> int:
        """Embeddings and layers; then a norm and the projection w d."""
        w = self.width
        return self.input_parameters + self.layers * self.layer_parameters + 2 * w + w * self.output

    @property
    def layer_flops(self) -> int:
        """Forward, two for a multiply-add: n (4 w^2 + 2 w h) in matrices and 2 n^2 w in attention."""
        n, w = self.tokens, self.width
        return 2 * (n * (4 * w * w + 2 * w * self.hidden) + 2 * n * n * w)

    @property
    def flops(self) -> int:
        """Forward. Counted as open_clip's docs/model_profile.csv does; norms, GELU and softmax are left out."""
        return self.input_flops + self.layers * self.layer_flops + 2 * self.width * self.output

    def at(self, side: int) -> Tower:
        """The same image tower for images of another size, whose positions are resampled."""
        patches = (side // self.patch) ** 2
        return replace(
            self,
            tokens=patches + self.prefix,
            input_flops=2 * patches * self.width * 3 * self.patch**2,
            input_values=3 * side * side,
        )

    def layer_bytes(self, precision: Precision) -> int:
        """What autograd keeps of one layer and sample.

        A token has 36 w + 8 h bytes in fp32: the inputs of two norms, of the four matrices and of GELU, query, key,
        value and the output of fused attention. Under autocast to bf16 22 w + 4 h, because norms stay fp32. Layer scale
        keeps what it multiplies: 8 w, in bf16 4 w.
        """
        w, h, scaled = self.width, self.hidden, 4 * self.width * self.layer_scale
        return self.tokens * (22 * w + 4 * h + scaled if precision == "bf16" else 36 * w + 8 * h + 2 * scaled)

    def input_bytes(self, precision: Precision) -> int:
        """The image as uint8, as fp32 and, under autocast, as bf16; 8 bytes a text token."""
        return self.input_values * (7 if precision == "bf16" else 5) or 8 * self.tokens

    def activation_bytes(self, precision: Precision) -> int:
        """At the peak, of one sample: all layers, and one more for the gradients on their way through a layer."""
        return (self.layers + 1) * self.layer_bytes(precision) + self.input_bytes(precision)


@dataclass(frozen=True)
class ModelSize:
    """Both towers of a CLIP, and the logit scale."""

    vision: Tower
    text: Tower
    scalars: int = 1  # logit scale, and bias where there is one

    @property
    def embed_dim(self) -> int:
        return self.vision.output

    @property
    def parameters(self) -> int:
        return self.vision.parameters + self.text.parameters + self.scalars

    @property
    def flops(self) -> int:
        """Forward, of one pair."""
        return self.vision.flops + self.text.flops

    def activation_bytes(self, precision: Precision) -> int:
        """Of one pair: both towers are kept until the loss."""
        return self.vision.activation_bytes(precision) + self.text.activation_bytes(precision)


def state_bytes(parameters: int, trained: int, ranks: int, zero_stage: int) -> dict[str, float]:
    """Weights, gradients and Adam's moments of one GPU, fp32 (ZeRO: arXiv 1910.02054, section 5).

    Weights 4 P; gradients 4 T, at stage 2 their shard; moments 8 T, from stage 1 on the shard of them and of an fp32
    copy of the weights: 12 T / W.
    """
    gradients = 4 * trained / (ranks if zero_stage == 2 else 1)
    moments = 12 * trained / ranks if zero_stage else 8 * trained
    return {"weights": 4.0 * parameters, "gradients": gradients, "moments": moments}


def gathered_bytes(batch: int, dimension: int, size: int = 4) -> float:
    """Features of both towers gathered from all ranks: 2 B d s; their gradients are as many again."""
    return 2.0 * batch * dimension * size


def logit_bytes(local: int, batch: int) -> float:
    """The b x B matrices of pretrain/losses.py in fp32: logits, softmax and gradient, each way: 2 x 3 x 4 b B."""
    return 24.0 * local * batch


def model_size(name: str) -> ModelSize:
    """Of a model by name (ours, then open_clip's) or path of a .json config.

    Raises InputError where there is no such model, NoEstimateError for other architectures.
    """
    config = read_config(name)
    try:
        return _size(name, config)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"model {name}: no CLIP config of open_clip ({what}); compare it with {_OURS}") from None


def read_config(name: str) -> dict[str, Any]:
    """The JSON of a model config; raises InputError where there is none, or it is no JSON."""
    path = _find(name)
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: must be an object with embed_dim, vision_cfg and text_cfg")
    return config


def _find(name: str) -> Path:
    if Path(name).suffix == ".json" and Path(name).is_file():
        return Path(name)
    known = {path.stem: path for folder in (_open_clip_configs(), _OURS) for path in folder.glob("*.json")}
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"model {name}: no open_clip model name, none of ours, no path of a .json config{hint}")
    return known[name]


def _open_clip_configs() -> Path:
    """Found without importing the package, which would import torch."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise InputError("open_clip is not installed here, and its model configs are needed; run make setup")
    return Path(spec.origin).parent / "model_configs"


def _size(name: str, config: dict[str, Any]) -> ModelSize:
    _refuse_others(name, config, {"embed_dim", "vision_cfg", "text_cfg", "init_logit_bias"})
    biased = config.get("init_logit_bias") is not None
    output = int(config["embed_dim"])
    return ModelSize(
        _vision(name, config["vision_cfg"], output), _text(name, config["text_cfg"], output), 1 + int(biased)
    )


def _vision(name: str, given: dict[str, Any], output: int) -> Tower:
    _refuse_others(name, given, set(_VISION), "vision_cfg.")
    c = {**_VISION, **given}
    if not isinstance(c["layers"], int) or not isinstance(c["image_size"], int):
        raise NoEstimateError(f"model {name}: a list in vision_cfg; plan knows ViT towers only, e.g. ViT-B-32")
    width, patch, side = c["width"], c["patch_size"], c["image_size"]
    if width % c["head_width"] or side < patch:
        raise InputError(f"model {name}: vision_cfg: head_width must divide width, patch_size fit into image_size")
    patches, patch_values = (side // patch) ** 2, 3 * patch * patch
    tokens = patches + 1
    return Tower(
        layers=c["layers"],
        width=width,
        hidden=int(width * c["mlp_ratio"]),
        tokens=tokens,
        output=output,
        input_parameters=width * patch_values + width + tokens * width + 2 * width,
        input_flops=2 * patches * width * patch_values,
        input_values=3 * side * side,
        patch=patch,
        pre_norm=True,
    )


def _text(name: str, given: dict[str, Any], output: int) -> Tower:
    _refuse_others(name, given, set(_TEXT), "text_cfg.")
    c = {**_TEXT, **given}
    width = c["width"]
    return Tower(
        layers=c["layers"],
        width=width,
        hidden=int(width * c["mlp_ratio"]),
        tokens=c["context_length"],
        output=output,
        input_parameters=(c["vocab_size"] + c["context_length"]) * width,
        input_flops=0,
        input_values=0,
    )


def _refuse_others(name: str, config: dict[str, Any], known: set[str], where: str = "") -> None:
    """Raises NoEstimateError for a setting that makes another architecture, which these formulas would size wrongly."""
    for key, value in config.items():
        pools = key == "pool_type" and value in _POOL_ONE_TOKEN
        if value and not pools and key not in known | _SAME_SIZE:
            raise NoEstimateError(f"model {name} sets {where}{key}; plan knows ViT towers only, e.g. ViT-B-32")


def millions(count: float) -> str:
    """For a formula: 151.28 M."""
    return f"{count / 1e6:.2f} M"
