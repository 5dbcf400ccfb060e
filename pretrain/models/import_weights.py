"""Published weights become safetensors that the trainer and `evals` read: the one place that reads .pth files.

Understood are timm's own names, DINO's and DINOv2's (with registers, in chunks of blocks, in training checkpoints),
and the image tower of a CLIP by OpenAI's, open_clip's or SynCLR's names. timm itself converts names.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import replacing
from pineco.pretrain.models.export import TIMM

PREFIX = "timm:"
CONTAINERS = ("teacher", "state_dict", "model", "student")  # a training checkpoint's; the first that is there is taken
_OUTER = ("module.", "model.", "teacher.", "student.", "backbone.", "visual.trunk.", "visual.")
"""What comes before the names of the tower, in the order in which it is taken away."""
_HEADS = ("head.", "head_dist.", "fc_norm.")  # of timm's classifiers; the last one only where the model has none
_MASK = "mask_token"  # of DINOv2, which training by masks needs
_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")  # DINOv2 trains in chunks, whose blocks keep their number in the model

PIXELS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of pixels in [0, 1], by channel."""

_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What training scripts keep beside tensors: their options, and numbers of numpy. Making these runs no code."""


@dataclass(frozen=True)
class Imported:
    """What became of a file."""

    tensors: Mapping[str, Tensor]  # by timm's names, float32
    source: str  # where in the file they were, such as "teacher: backbone."; empty: at the top
    left_out: tuple[str, ...]  # names of other tensors that were there
    image_size: int  # pixels of the side that the position embeddings are for
    default_size: int  # of the architecture


def import_weights(model: str, source: Path, out: Path, pixels: str | None = None) -> Imported:
    """Writes `out` with the tensors of timm:NAME, every one of them from `source`.

    out: a file (*.safetensors), or a folder as stock timm loads it (`local-dir:`), which says too how pixels are
    normalised: as NAME's are, or by `pixels` (see PIXELS). Raises InputError for an unknown model, an `out` that is
    there, a file that holds code or cannot be read, and tensors that are not those of the model; nothing is written
    then.
    """
    single = out.suffix == ".safetensors"
    if out.suffix in (".pth", ".pt", ".bin") or (single and pixels is not None):
        what = "with --pixels, OUT must be a folder" if single else "OUT must be *.safetensors or a folder"
        raise InputError(f"{out}: {what}, which the trainer and the evaluations read")
    if out.exists():
        raise InputError(f"{out}: is there already; choose another name, or delete it")
    found = convert(model, read_tensors(source), str(source))
    weights = save(dict(found.tensors), metadata={"format": "pt"})
    config_name, weights_name = (Path(name).name for name in TIMM)
    files = {"": weights} if single else {config_name: _config(model, found, pixels), weights_name: weights}
    _publish(out, files)
    return found


def read_tensors(path: Path) -> Any:
    """What a .safetensors file or one of torch.save holds. No code of the file is run; raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not path.stat().st_size:
        raise InputError(f"{path}: an empty file; download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, its zip reader and safetensors each raise kinds of their own
        raise InputError(f"{path}: {_why_unread(str(error))}") from None


def convert(model: str, held: Any, where: str) -> Imported:
    """The tensors of timm:NAME out of what a file holds; raises InputError. where: the file, for messages."""
    name = model.removeprefix(PREFIX)
    module = _architecture(model, name)
    source, named = unwrap(held, where)
    tensors, left_out, prefix = _tower(named)
    _check_tokens(tensors, module, where)
    size = _image_size(tensors, module, where)
    default = module.patch_embed.img_size[0]
    if size != default:
        module = _architecture(model, name, img_size=size)
    converted = _by_timms_names(tensors, module, where)
    wanted = {key: tensor.shape for key, tensor in module.state_dict().items()}
    heads = [key for key in converted if key not in wanted and key.startswith(_HEADS)]
    kept = {key: tensor for key, tensor in converted.items() if key not in heads}
    masks = [_MASK] * (_MASK in tensors)
    _check_fit(model, kept, wanted, where)
    return Imported(
        tensors={key: _checked(key, kept[key], where) for key in wanted},
        source=f"{source}: {prefix}".strip(": "),
        left_out=(*left_out, *masks, *heads),
        image_size=size,
        default_size=default,
    )


def describe(model: str, source: Path, out: Path, found: Imported) -> list[str]:
    """What was made, as lines for people."""
    values = sum(tensor.numel() for tensor in found.tensors.values())
    part = f" ({found.source})" if found.source else ""
    lines = [f"{out}: {len(found.tensors)} tensors of {model}, {values:,} values, from {source}{part}"]
    if found.left_out:
        counts = Counter(name.partition(".")[0] for name in found.left_out)
        parts = ", ".join(f"{_plain(name)} ({count})" for name, count in counts.items())
        lines.append(f"  left out {len(found.left_out)} tensors: {parts}")
    if found.image_size != found.default_size:
        lines.append(
            f"  position embeddings stay those of {found.image_size} px; {model} is for {found.default_size} px, "
            "and the trainer resamples them to its objective.image_size"
        )
    return lines


def unwrap(held: Any, where: str) -> tuple[str, dict[str, Tensor]]:
    """(the names of the containers, the tensors by name) of what a file holds; raises InputError where there is none.

    A training checkpoint has a teacher and a student: the teacher is what its authors publish.
    """
    inner, path = held, []
    for _ in CONTAINERS:  # a file may contain itself
        inside = [name for name in CONTAINERS if isinstance(inner, Mapping) and isinstance(inner.get(name), Mapping)]
        if not inside:
            break
        inner = inner[inside[0]]
        path.append(inside[0])
    named = inner.items() if isinstance(inner, Mapping) else ()
    tensors = {name: tensor for name, tensor in named if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not tensors:
        raise InputError(f"{where}: holds no tensors by name, at the top or in {', '.join(CONTAINERS)}")
    return ".".join(path), tensors


def _tower(named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], str]:
    """(the image tower by names without a prefix, the names of everything else, that prefix)."""
    tensors, left_out, taken = dict(named), [], ""
    for prefix in _OUTER:
        if inside := {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}:
            left_out += [name for name in tensors if not name.startswith(prefix)]
            tensors, taken = inside, taken + prefix
    renamed = {_CHUNK.sub("blocks.", name): tensor for name, tensor in tensors.items()}
    if len(renamed) == len(tensors):  # otherwise no chunks of DINOv2; the names then say that it is another model
        tensors = renamed
    if "class_embedding" in tensors and tensors.pop("proj", None) is not None:  # of CLIP, behind the features
        left_out.append("proj")
    return tensors, left_out, taken


def _architecture(model: str, name: str, **options: Any) -> Any:
    """Without values: names and shapes are all that is asked of it."""
    import timm
    from timm.models import VisionTransformer

    if not model.startswith(PREFIX) or not timm.is_model(name):
        raise InputError(f"{model}: no {PREFIX}NAME that timm knows; see timm.list_models('vit_*')")
    try:
        with torch.device("meta"):
            module = timm.create_model(name, num_classes=0, **options)
    except RuntimeError as error:  # a tag behind the dot that it does not know
        raise InputError(f"{model}: timm cannot build it: {_short(error)}") from None
    if not isinstance(module, VisionTransformer):
        raise InputError(f"{model}: no vision transformer, and only their weights are imported")
    return module


def _check_tokens(tensors: Mapping[str, Tensor], module: Any, where: str) -> None:
    """Raises InputError for patches of another size, which timm would resample, and for other registers."""
    patch, kernel = module.patch_embed.patch_size, tensors.get("patch_embed.proj.weight", tensors.get("conv1.weight"))
    if kernel is not None and kernel.dim() == 4 and kernel.shape[2:] != patch:
        given, own = (" x ".join(map(str, sides)) for sides in (kernel.shape[2:], patch))
        raise InputError(f"{where}: its patches have {given} pixels, the model's {own}; name the model of this file")
    registers = tensors.get("register_tokens")
    if registers is not None and registers.shape[-2:-1] != (module.num_reg_tokens,):
        counts = f"its registers are {list(registers.shape[-2:-1])}, the model's {module.num_reg_tokens}"
        raise InputError(f"{where}: {counts}; name the model of this file")


def _image_size(tensors: Mapping[str, Tensor], module: Any, where: str) -> int:
    """Pixels of the side that the file's position embeddings are for; raises InputError where they are no square."""
    places = tensors.get("pos_embed", tensors.get("positional_embedding"))
    if places is None or places.dim() < 2 or module.pos_embed is None:
        return int(module.patch_embed.img_size[0])
    prefix = 0 if module.no_embed_class else module.num_prefix_tokens
    if "register_tokens" in tensors:  # DINOv2's own layout: the class token has a place, registers have none
        prefix = 1
    cells = places.shape[-2] - prefix
    side = round(max(cells, 0) ** 0.5)
    if not side or side * side != cells:
        raise InputError(f"{where}: {places.shape[-2]} position embeddings are no square for this model; name another")
    return int(side * module.patch_embed.patch_size[0])


def _by_timms_names(tensors: Mapping[str, Tensor], module: Any, where: str) -> dict[str, Tensor]:
    """timm's own conversion. It resamples nothing here: patches and positions have the sizes of `module`."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    given = dict(tensors)
    if "class_embedding" in given:  # it knows OpenAI's and open_clip's names by their prefix
        given = {f"visual.{name}": tensor for name, tensor in given.items()}
    if "register_tokens" in given:  # and DINOv2's by a tensor that it then drops
        given.setdefault(_MASK, torch.empty(0))
    try:
        return checkpoint_filter_fn(given, module, adapt_layer_scale=True)
    except (IndexError, KeyError, RuntimeError) as error:  # a tensor that it counts on is missing, or of another shape
        raise InputError(f"{where}: of another model: timm cannot convert it: {_short(error)}") from None


def _check_fit(model: str, found: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], where: str) -> None:
    lists = {
        "lacks": [key for key in wanted if key not in found],
        "has unknown": [key for key in found if key not in wanted],
        "has other shapes of": [key for key in wanted if key in found and found[key].shape != wanted[key]],
    }
    wrong = [f"{what} {_some(keys)}" for what, keys in lists.items() if keys]
    if wrong:
        raise InputError(f"{where}: not the weights of {model}: {'; '.join(wrong)}")


def _checked(key: str, tensor: Tensor, where: str) -> Tensor:
    """float32 of its own memory, which holds half precision exactly; raises InputError for what is no weight."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        raise InputError(f"{where}: {key} is {tensor.dtype} in layout {tensor.layout}; weights must be plain floats")
    values = tensor.detach().to(torch.float32, copy=True).contiguous()
    if not values.isfinite().all():
        raise InputError(f"{where}: {key} is not finite; the file is damaged, or of a run that diverged")
    return values


def _config(model: str, found: Imported, pixels: str | None) -> bytes:
    from timm.data import resolve_model_data_config

    from pineco.pretrain.models.backbones import timm_config  # imports open_clip, which takes seconds

    name = model.removeprefix(PREFIX)
    module = _architecture(model, name, img_size=found.image_size)
    config = resolve_model_data_config(module)
    if pixels is not None:
        config["mean"], config["std"] = PIXELS[pixels]
    return timm_config(name, module, found.image_size, config).encode()


def _publish(out: Path, files: Mapping[str, bytes]) -> None:
    """All of it or nothing. files: by name below `out`, which is a file itself where that is "". Raises InputError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out, sync=True) as draft:
            for name, data in files.items():
                path = draft / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{out}: not written: {error.strerror or error}") from None


def _some(names: Iterable[str], few: int = 3) -> str:
    names = [_plain(name) for name in names]
    return ", ".join(names[:few]) + (f" and {len(names) - few} more" if len(names) > few else "")


def _plain(text: str) -> str:
    """In ASCII on one line: names come from strangers, and go to a terminal."""
    return ascii(" ".join(text.split()))[1:-1][:200]


def _short(error: Exception) -> str:
    return _plain(str(error))


def _why_unread(reason: str) -> str:
    """torch's own message advises to trust the file, or to file an issue; ours names what is in it."""
    if "TorchScript" in reason:
        return "a TorchScript archive, which is a program; take the same weights as .safetensors or a plain state dict"
    if asked := re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", reason):
        return f"holds more than tensors ({_plain(asked[1])}), which would have to be run; refused"
    if re.search("weights.only", reason, re.IGNORECASE):
        return "no file of torch.save, or one that holds more than tensors; refused"
    return f"cannot be read ({_plain(reason)}); download it again"
