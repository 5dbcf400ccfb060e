"""How sharply a comparator compares: the share of its own value that a wire keeps, and its derivative.

A wire whose value already stands on the right side of its partner's by `gap` keeps the share F(steepness · gap), F a
cumulative distribution symmetric around 0; the rest is its partner's. Both wires of a comparator see the same gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["cauchy", "logistic", "logistic_phi", "gaussian", "reciprocal", "optimal"]
STEEPEST = torch.finfo(torch.float32).max  # what the kernels take; for float64, too
SMALLEST_GAP = 1e-10  # keeps the power of the activation replacement trick finite where values tie


def check_steepness(name: str, steepness: float) -> None:
    """Raises ValueError, with `name` in front, for what is no steepness."""
    if not (isinstance(steepness, Real) and 0 < steepness <= STEEPEST):
        raise ValueError(f"{name} is {steepness!r}; pass a number above 0, at most {STEEPEST:.1e}")


@dataclass(frozen=True)
class Relaxation:
    """F and its scale. Petersen et al. 2021 (2105.04019) for the logistic ones, 2022 (2203.09630) for the others."""

    distribution: Distribution
    steepness: float
    art_lambda: float = 0.25  # of logistic_phi only: the argument is gap / |gap|^lambda, so that close values part, too

    def keep(self, gap: Tensor) -> Tensor:
        """The share in [0, 1] for gaps of any shape. Where a gap is negative, it is exact to a few ulp, however small.

        Else it is 1 minus such a share, and 1 minus it, what the partner gives, exact to 6e-8 only.
        """
        tail = self._tail(self._argument(gap.abs()))
        return torch.where(gap < 0, tail, 1 - tail)

    def slope(self, gap: Tensor) -> Tensor:
        """The derivative of `keep` with respect to the gap."""
        size = gap.abs()
        return self._density(self._argument(size)) * self._argument_slope(size)

    def _argument(self, size: Tensor) -> Tensor:
        if self.distribution != "logistic_phi":
            return self.steepness * size
        return self.steepness * (size * (size + SMALLEST_GAP).pow(-self.art_lambda))

    def _argument_slope(self, size: Tensor) -> Tensor | float:
        if self.distribution != "logistic_phi":
            return self.steepness
        shifted = size + SMALLEST_GAP
        return self.steepness * shifted.pow(-self.art_lambda) * (1 - self.art_lambda * (size / shifted))

    def _tail(self, u: Tensor) -> Tensor:
        """1 - F(u) for u >= 0, without the cancellation of that difference."""
        match self.distribution:
            case "cauchy":
                return torch.atan2(torch.ones_like(u), u) / math.pi
            case "logistic" | "logistic_phi":
                return torch.sigmoid(-u)
            case "gaussian":
                return torch.special.erfc(u / math.sqrt(2)) / 2
            case "reciprocal":
                return 1 / (2 + u)
            case "optimal":
                return torch.where(u > 0.25, 1 / (16 * u.clamp(min=0.25)), 0.5 - u)

    def _density(self, u: Tensor) -> Tensor:
        """F'(u) for u >= 0."""
        match self.distribution:
            case "cauchy":
                return 1 / (math.pi * (1 + u * u))
            case "logistic" | "logistic_phi":
                return torch.sigmoid(-u) * torch.sigmoid(u)
            case "gaussian":
                return torch.exp(-u * u / 2) / math.sqrt(2 * math.pi)
            case "reciprocal":
                return (2 + u).pow(-2)
            case "optimal":
                return torch.where(u > 0.25, 1 / (16 * u.clamp(min=0.25).square()), 1.0)
