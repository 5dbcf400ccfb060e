"""Text towers without the padding: a prompt of ten tokens need not cost the 77 of the context."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

_EMBEDDING, _MASK = "positional_embedding", "attn_mask"


class ShortText(torch.nn.Module):
    """A CLIP model's text tower on as many tokens as its longest text has.

    Exact: under a causal mask no token sees those behind it, and the feature is read at the end-of-text token, so what
    follows it, which is padding, changes nothing. Prompts have 5 to 20 tokens of 77. Towers of another kind (without a
    causal mask, or that read elsewhere) get all tokens.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        tower: Any = getattr(model, "text", model)
        self._prefix = "model.text." if tower is not model else "model."
        self._pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
        self._end = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
        self._context = getattr(tower, _EMBEDDING).shape[0] if _is_causal(tower) else 0

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, D) features, not normalised, of (T, L) tokens."""
        return self.model.encode_text(tokens)

    def encode(self, tokens: Tensor) -> Tensor:
        """The same, of tokens cut behind the last end of text in the batch."""
        length = self.length(tokens)
        if length >= tokens.shape[1]:
            return self(tokens)
        tower = getattr(self.model, "text", self.model)
        shorter = {
            self._prefix + _EMBEDDING: getattr(tower, _EMBEDDING)[:length],
            self._prefix + _MASK: getattr(tower, _MASK)[:length, :length],
        }
        return functional_call(self, shorter, (tokens[:, :length],))

    def length(self, tokens: Tensor) -> int:
        """How many tokens of (T, L) are needed: up to the last end of text, or all."""
        if tokens.shape[1] != self._context or self._pool not in ("argmax", "eos"):
            return tokens.shape[1]
        marks = tokens if self._pool == "argmax" else (tokens == int(self._end or 0)).int()
        return int(marks.argmax(dim=1).max()) + 1


def _is_causal(tower: Any) -> bool:
    mask = getattr(tower, _MASK, None)
    if not isinstance(mask, Tensor) or getattr(tower, "cls_emb", None) is not None:
        return False
    return not getattr(tower, "use_pad_mask", False) and bool(torch.isinf(mask.triu(1)[mask.triu(1) != 0]).all())
