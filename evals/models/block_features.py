"""Features of every block of a vision transformer, by hooks."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.batching import Rows


class BlockFeatures:
    """(N, D) float32 of each block of a vision transformer, for all images that pass through it: `rows`.

    For timm's, open_clip's and timm's within open_clip, by forward hooks on their blocks; before the last norm.
    """

    def __init__(self, module: Any, name: str, kind: Literal["cls", "patch"]) -> None:
        """name: for messages. kind: the class token or the mean patch. Raises InputError for what has none."""
        tower = getattr(module, "visual", module)
        tower = getattr(tower, "trunk", tower)
        inner = getattr(tower, "transformer", None)  # open_clip's, whose class token comes first, and alone
        blocks = getattr(tower, "blocks", None) if inner is None else getattr(inner, "resblocks", None)
        self._prefix = getattr(tower, "num_prefix_tokens", None if inner is None else 1)
        if not blocks or self._prefix is None:
            raise InputError(f"--layers: {name} is no plain vision transformer; leave the option or the model out")
        if kind == "cls" and inner is None and getattr(tower, "cls_token", None) is None:
            raise InputError(f"--layers cls: {name} has no class token; use --layers patch")
        self._kind, self._images_first = kind, getattr(inner, "batch_first", True)
        self.rows = [Rows() for _ in blocks]
        for block, rows in zip(blocks, self.rows, strict=True):
            block.register_forward_hook(partial(self._keep, rows))

    def _keep(self, rows: Rows, block: Any, inputs: Any, tokens: Tensor) -> None:
        """tokens: (B, P + N, D), or (P + N, B, D) where images come second."""
        tokens = tokens.detach().float() if self._images_first else tokens.detach().float().transpose(0, 1)
        rows.append((tokens[:, 0] if self._kind == "cls" else tokens[:, self._prefix :].mean(dim=1)).cpu())
