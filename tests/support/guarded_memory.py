"""A guard for interpreted kernels: no load or store outside the tensors of the launch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor


def guard_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted launches raise where a load or store that is not masked leaves the tensors that they were given."""
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    allowed: list[tuple[int, int]] = []
    call, load, store = interpreter.GridExecutor.__call__, builder.create_masked_load, builder.create_masked_store

    def guarded_call(self: Any, *arguments: Any, **options: Any) -> Any:
        allowed[:] = [_extent(x) for x in (*arguments, *options.values()) if isinstance(x, Tensor) and x.numel()]
        return call(self, *arguments, **options)

    def check(pointers: Any, mask: Any) -> None:
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        outside = [all(not first <= a < end for first, end in allowed) for a in np.unique(addresses)]
        assert not any(outside), f"{sum(outside)} addresses outside the tensors of the launch"

    def guarded_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def guarded_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", guarded_call)
    monkeypatch.setattr(builder, "create_masked_load", guarded_load)
    monkeypatch.setattr(builder, "create_masked_store", guarded_store)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First address, and the one after the last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
