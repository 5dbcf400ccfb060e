"""What a checkpoint exports: the two files of a directory that the ecosystem's own loader reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ExportFormat:
    """Names below the checkpoint, and the text of the first; the second holds the weights as safetensors."""

    config_file: str
    weights_file: str
    config: str


EXPORT = "export"  # the folder below a checkpoint
Exported = dict[str, "bytes | dict[str, Tensor]"]  # files below the checkpoint; of tensors, safetensors is made
OPEN_CLIP = ("export/open_clip_config.json", "export/open_clip_model.safetensors")
TIMM = ("export/config.json", "export/model.safetensors")
FORMATS = (OPEN_CLIP, TIMM)
