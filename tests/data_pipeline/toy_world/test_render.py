"""The pictures: masks, depth and counts agree with them, edges are smooth, every size works."""

from dataclasses import replace

import numpy as np
import pytest

from pineco.data_pipeline.toy_world.render import DISTANCE, render
from pineco.data_pipeline.toy_world.scene import SHAPES, Background, Light, Scene, Shape, ToyObject, sample_scene

SIDE = 64


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(7)
    return [sample_scene(rng) for _ in range(count)]


def test_masks_depth_and_counts_agree() -> None:
    """If it fails, segmentation, depth and counting are scored against wrong labels."""
    for scene in scenes(150):
        _, mask, depth = render(scene, SIDE)
        present = {SHAPES[value - 1] for value in np.unique(mask) if value}
        assert present == set(scene.counts())
        assert sum(scene.counts().values()) == len(scene.objects)
        for thing in scene.objects:
            alone = render(replace(scene, objects=(thing,)), SIDE)
            there = alone.mask > 0
            seen = there & (mask == alone.mask) & (depth == alone.depth)
            assert seen.sum() > 0.4 * there.sum()  # nothing that is counted hides
            assert (depth[there] <= alone.depth[there]).all()  # what hides it is nearer
        assert depth.min() > 0
        assert depth[mask > 0].max() < depth[mask == 0].min(initial=5000)


def test_objects_change_the_image_where_the_mask_says() -> None:
    """If it fails, masks are shifted against the picture, or objects drown in the background.

    Four pixels of margin: over so many do the horns of a crescent fade out beyond the mask.
    """
    for scene in scenes(100):
        image, mask, _ = render(scene, SIDE)
        change = np.abs(image.astype(int) - render(replace(scene, objects=()), SIDE).image).max(2)
        near = np.pad(mask > 0, 4)
        near = np.logical_or.reduce([near[i : i + SIDE, j : j + SIDE] for i in range(9) for j in range(9)])
        assert not change[~near].any()
        assert (change[mask > 0] > 8).mean() > 0.6


def white_on_black(shape: Shape) -> Scene:
    """One object under an even light, a little off the pixels' grid."""
    white, even = (1.0, 1.0, 1.0), Light(gain=(1.0, 1.0, 1.0), slope=0.0, angle=0.0, noise=0.0, seed=0)
    thing = ToyObject(shape, "red", white, white, "solid", "large", 0.503, 0.498, 0.25, 17.0, 1.0)
    return Scene((thing,), "middle", Background("plain", "black", (0.0, 0.0, 0.0), 0.0), even)


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_anti_aliased(shape: Shape) -> None:
    """If it fails, edges are stairs: small shapes flicker between neighbouring positions.

    The grey levels must sum to the area of the outline, which a mask of whole pixels misses.
    """
    grey = render(white_on_black(shape), SIDE).image[:, :, 0] / 255
    axis = np.linspace(-1.3, 1.3, 1000, dtype=np.float32)
    area = float((DISTANCE[shape](axis[None, :], axis[:, None]) < 0).mean()) * 2.6**2
    assert grey.sum() == pytest.approx(area * (0.25 * SIDE) ** 2, rel=0.015)
    assert ((grey > 0.05) & (grey < 0.95)).sum() > 20
    assert 1.35 < area < 1.95  # all shapes fill the picture about alike


@pytest.mark.parametrize("size", [16, 65, 224])
def test_any_image_size_renders(size: int) -> None:
    """If it fails, image_size works for 64 only."""
    for scene in scenes(20):
        image, mask, depth = render(scene, size)
        assert (image.shape, mask.shape, depth.shape) == ((size, size, 3), (size, size), (size, size))
