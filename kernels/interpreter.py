"""Triton's interpreter, which runs kernels in Python on the CPU, for tests; and what its version 3.6 gets wrong.

Each mend can go when Triton has it: https://github.com/triton-lang/triton/issues/9171 is the first.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np


def interpreting() -> bool:
    """Whether Triton runs its kernels in Python, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def mend_interpreter() -> None:
    """Loops over run-time bounds, which NumPy 2.4 stops; bfloat16 casts, which cut; bfloat16 dots, of the raw bits."""
    from triton import language as tl
    from triton.runtime import interpreter

    patch, builder = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder
    cast, dot = builder.cast_impl, builder.create_dot

    def patch_and_mend(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def cast_and_round(self: Any, source: Any, type_: Any) -> Any:
        if (source.dtype.scalar, type_.scalar) == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(_to_bfloat16(source.data), tl.bfloat16)
        return cast(self, source, type_)

    def dot_of_values(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, *(_widened(interpreter, tl, x) for x in (a, b)), *rest)

    interpreter._patch_lang = _patch_once(interpreter._patch_lang, tl)
    interpreter._patch_lang_tensor = patch_and_mend
    builder.cast_impl, builder.create_dot = cast_and_round, dot_of_values


def _patch_once(patch: Any, tl: Any) -> Any:
    """Return `patch` so that functions called by a kernel find the language patched already.

    Triton patches it again for each of their calls: 54 s of CPU instead of 34 for the nine tests of test_soft_sort.py
    whose names hold bitonic_kernels_err.
    """
    patched: set[frozenset[int]] = set()  # by which modules of the language a function sees, while a kernel runs

    def patch_if_needed(function: Any) -> Any:
        modules = frozenset(id(value) for value in function.__globals__.values() if value is tl or value is tl.core)
        if modules in patched:
            return None  # only the scope of the kernel itself is used, to restore the language
        scope = patch(function)
        if not patched:
            restore = scope.restore

            def end() -> None:
                restore()
                patched.clear()

            scope.restore = end
        patched.add(modules)
        return scope

    return patch_if_needed


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, ties to even; not a number stays so."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, nearest).astype(np.uint16)


def _widened(interpreter: Any, tl: Any, handle: Any) -> Any:
    """A bfloat16 operand as the float32 numbers that its bits stand for."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
