"""Sorting networks as integers: which wires every layer compares. No tensor of values is touched here."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Network = Literal["bitonic", "odd_even"]
LARGEST = 1024  # wires
Layer = tuple[tuple[int, int], ...]  # comparators (low, high): the smaller value goes to wire `low`


class Wiring(NamedTuple):
    """All layers of a network as tables, (L, n) each. The relation is symmetric: the partner of my partner is me."""

    partner: Tensor  # int64: the wire that each wire is compared with, itself where the layer leaves it alone
    side: Tensor  # float32: -1 for the wire that gets the smaller value, +1 for the larger, 0 for a wire left alone


@cache
def layers(network: Network, n: int) -> tuple[Layer, ...]:
    """Comparators of every layer of a network of n >= 1 wires, in order. Comparators of one layer share no wire."""
    return _bitonic(n) if network == "bitonic" else _odd_even(n)


def _bitonic(n: int) -> tuple[Layer, ...]:
    """Batcher 1968. Where n is no power of two, the first wires of the next larger network are dropped.

    Dropped wires would carry the smallest values, so every comparator that touches one is left out, too.
    """
    blocks = (n - 1).bit_length()
    return tuple(_bitonic_layer(n, block, block - step) for block in range(blocks) for step in range(block + 1))


def _bitonic_layer(n: int, block: int, distance_bit: int) -> Layer:
    """Wires whose numbers differ in one bit meet; runs of 2^(block + 1) wires are sorted up and down in turns."""
    dropped = (1 << (n - 1).bit_length()) - n
    firsts = [wire for wire in range(dropped, dropped + n) if not wire >> distance_bit & 1]
    pairs = [(wire - dropped, wire - dropped + (1 << distance_bit)) for wire in firsts]
    descending = [wire >> (block + 1) & 1 for wire in firsts]
    return tuple((b, a) if down else (a, b) for (a, b), down in zip(pairs, descending, strict=True))


def _odd_even(n: int) -> tuple[Layer, ...]:
    """Odd-even transposition sort: n layers of neighbours, every other layer shifted by one wire."""
    both = tuple(tuple((wire, wire + 1) for wire in range(first, n - 1, 2)) for first in (0, 1))
    return tuple(both[number % 2] for number in range(n if n > 1 else 0))


@lru_cache(maxsize=16)
def wiring(network: Network, n: int, device: torch.device) -> Wiring:
    """The layers as tensors on a device, kept for the next call: do not write to them."""
    with torch.inference_mode(False):  # a later call may need gradients
        stages = layers(network, n)
        partner = torch.arange(n).repeat(len(stages), 1)
        side = torch.zeros(len(stages), n)
        for number, layer in enumerate(stages):
            if layer:
                low, high = torch.tensor(layer).T
                partner[number, low], partner[number, high] = high, low
                side[number, low], side[number, high] = -1.0, 1.0
        return Wiring(partner.to(device), side.to(device))
