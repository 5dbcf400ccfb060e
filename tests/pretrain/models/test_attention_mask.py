"""Foreground by attention, against a flood fill."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.pretrain.models.attention_mask import MASS, SMALLEST, _without_small, foreground


def components(mask: list[list[bool]]) -> list[set[tuple[int, int]]]:
    left = {(y, x) for y, row in enumerate(mask) for x, value in enumerate(row) if value}
    found = []
    while left:
        group, border = set(), {left.pop()}
        while border:
            y, x = border.pop()
            group.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
            border |= near & left
            left -= near
        found.append(group)
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=6, max_size=6))
def test_small_components_go(mask: list[list[bool]]) -> None:
    """Single patches of noise would count as foreground, or objects be eaten."""
    kept = _without_small(torch.tensor([mask]))[0]
    expected = torch.zeros_like(kept)
    for group in components(mask):
        if len(group) >= SMALLEST:
            for y, x in group:
                expected[y, x] = True
    assert torch.equal(kept, expected)


def test_foreground_holds_the_mass() -> None:
    """Half of the object would be background, or all of the image foreground."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    spots = [torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8) for y, x in ((4, 4), (11, 10))]
    attention = torch.stack(spots) + 1e-4
    mask = foreground(attention)
    for map_, kept, (y, x) in zip(attention, mask, ((4, 4), (11, 10)), strict=True):
        share = float((map_ * kept).sum() / map_.sum())
        assert MASS - 0.1 < share < MASS + 0.15
        assert kept[y, x]
        assert kept.float().mean() < 0.3
