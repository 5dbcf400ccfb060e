"""NeCo's loss: do student and teacher sort the same references in the same order, patch by patch."""

from pineco.kernels.neco_loss.op import neco_loss

__all__ = ["neco_loss"]
