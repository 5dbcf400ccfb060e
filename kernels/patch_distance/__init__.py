"""Distances between patch features, fused with their normalisation."""

from pineco.kernels.patch_distance.op import patch_distance

__all__ = ["patch_distance"]
