"""Differentiable sorting networks, batched: sorted values and the soft permutation."""

from pineco.kernels.soft_sort.op import soft_sort

__all__ = ["soft_sort"]
