"""Multi-crop batches: the pixels of the boxes that the overlaps speak of, the same for every number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pineco.data_pipeline.batches import MultiCropBatch
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.crops import MultiCrop, draw_boxes
from pineco.data_pipeline.images.multicrop import MultiCropSource, resize_bilinear
from pineco.data_pipeline.images.transforms import Box, to_tensor
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.randomness import Stream, generator
from pineco.data_pipeline.reading.quarantine import read_ledger
from pineco.data_pipeline.reading.reader import SampleError
from pineco.data_pipeline.reading.shard_set import ShardOptions, open_shards
from tests.support.shards import encode, natural_image, solid, write_shard

SAMPLES = 12
SMALL: dict[str, Any] = {"global_size": 28, "local_size": 14, "local_crops": 3}
NO_COLOUR: dict[str, Any] = {"jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0}


def make_source(root: Path, *, seed: int = 3, **options: Any) -> MultiCropSource:
    return MultiCropSource(
        open_shards(str(root), ShardOptions(memory=0)), settings=MultiCrop(**SMALL | options), seed=seed
    )


def load(source: MultiCropSource, numbers: list[int], epoch: int = 0) -> MultiCropBatch:
    """These samples in this order; raises SampleError for a bad one."""
    batch, found = source.empty(len(numbers), pin=False), source.reader.read(np.unique(numbers))
    for slot, number in enumerate(numbers):
        members = found[number]
        assert not isinstance(members, SampleError)
        source.fill(batch, slot, number, epoch, [members])
    return batch


def same(one: MultiCropBatch, two: MultiCropBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images without captions, of several shapes, in two shards."""
    for shard in range(2):
        numbers = range(shard * SAMPLES // 2, (shard + 1) * SAMPLES // 2)
        images = [Image.fromarray(natural_image(40 + 3 * i, 70 - 2 * i, seed=i)) for i in numbers]
        write_shard(tmp_path / f"{shard}.tar", [(f"{i:03}.png", encode(m, "PNG")) for i, m in enumerate(images)])
    return tmp_path


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_shapes_are_those_of_the_contract(photos: Path) -> None:
    """The objective would be given other tensors than it was written for."""
    batch = load(make_source(photos), [4, 0])
    assert (batch.globals.shape, batch.globals.dtype) == ((2, 2, 3, 28, 28), torch.uint8)
    assert (batch.locals.shape, batch.locals.dtype) == ((2, 3, 3, 14, 14), torch.uint8)
    assert (batch.overlaps.shape, batch.overlaps.dtype) == ((2, 2, 4, 2, 4), torch.float32)
    assert (batch.samples.tolist(), batch.samples.dtype, len(batch)) == ([4, 0], torch.int64, 2)
    assert load(make_source(photos, local_crops=0), [0]).locals.shape == (1, 0, 3, 14, 14)


def test_overlaps_show_the_same_part_of_the_image(tmp_path: Path) -> None:
    """Crops and boxes would be in another order, mirrored, or of another draw: a patch would meet a stranger."""
    rows, columns = np.mgrid[:256, :256].astype(np.uint8)
    place = np.stack([columns, rows, np.full_like(rows, 9)], axis=2)  # each pixel says where it lies
    write_shard(tmp_path / "0.tar", [("0.png", encode(Image.fromarray(place), "PNG"))])
    source = make_source(tmp_path, global_size=256, local_size=256, **NO_COLOUR)
    for epoch in range(10):
        batch = load(source, [0], epoch)
        views = [*batch.globals[0], *batch.locals[0]]
        for g in range(2):
            for o in range(4):
                own, others = batch.overlaps[0, g, o].tolist()
                other = views[(1, 0)[g] if o == 0 else 1 + o]
                assert np.abs(ends(views[g], own) - ends(other, others)).max() <= 3  # pixels of the image


def ends(view: torch.Tensor, region: list[float]) -> np.ndarray:
    """What the pixels inside the first and the last corner of the region say."""
    left, top, right, bottom = np.array(region) * view.shape[1]
    first = view[:2, int(np.ceil(top)), int(np.ceil(left))]
    last = view[:2, max(0, int(bottom) - 1), max(0, int(right) - 1)]
    return torch.cat([first, last]).numpy().astype(int)


def test_pixels_are_those_of_the_drawn_boxes(photos: Path) -> None:
    """Views would be cut elsewhere than the overlaps say, or overwrite one another."""
    batch = load(make_source(photos, **NO_COLOUR), [5], epoch=2)
    image = to_tensor(natural_image(55, 60, seed=5))
    boxes = draw_boxes(55, 60, MultiCrop(**SMALL | NO_COLOUR), generator(3, Stream.AUGMENTATION, 2, 5))
    expected = [resize_bilinear(image, box, 28 if view < 2 else 14) for view, box in enumerate(boxes)]
    assert torch.equal(batch.globals[0], torch.stack(expected[:2]))
    assert torch.equal(batch.locals[0], torch.stack(expected[2:]))


@pytest.mark.parametrize("box", [(0, 0, 90, 120), (7, 11, 60, 44), (3, 2, 20, 25)])
def test_resize_is_that_of_pillow(box: Box) -> None:
    """Views would be smoother or sharper than those of the original."""
    pixels, (top, left, height, width) = natural_image(90, 120), box
    whole = Image.fromarray(pixels[top : top + height, left : left + width])
    expected = np.asarray(whole.resize((56, 56), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_bilinear(to_tensor(pixels), box, 56).permute(1, 2, 0).numpy() - expected).max() <= 1


def test_colour_is_of_its_own_for_every_view(tmp_path: Path) -> None:
    """All views would be changed alike, and the encoder could tell them by their colour."""
    write_shard(tmp_path / "0.tar", [("0.png", solid(60, side=32))])
    batch = load(make_source(tmp_path, jitter_p=1.0, grey_p=0.0), [0])
    colours = {tuple(view[:, 0, 0].tolist()) for view in [*batch.globals[0], *batch.locals[0]]}
    assert len(colours) == 5


def test_views_depend_on_seed_epoch_and_sample_only(photos: Path) -> None:
    """Batch size or order would change the crops; or every epoch would show the same ones."""
    together, alone = load(make_source(photos), [0, 7, 3], epoch=1), load(make_source(photos), [3], epoch=1)
    assert torch.equal(together.globals[2], alone.globals[0])
    assert torch.equal(together.locals[2], alone.locals[0])
    assert torch.equal(together.overlaps[2], alone.overlaps[0])
    for other in (load(make_source(photos), [3], epoch=2), load(make_source(photos, seed=4), [3], epoch=1)):
        assert not torch.equal(other.globals, alone.globals)
        assert not torch.equal(other.overlaps, alone.overlaps)


@pytest.mark.usefixtures("threads")
def test_torchs_threads_change_nothing(tmp_path: Path) -> None:
    """Sums in another order would give other pixels on a machine with more cores."""
    pixels = Image.fromarray(natural_image(300, 400))
    write_shard(tmp_path / "0.tar", [("0.png", encode(pixels, "PNG"))])
    source = make_source(tmp_path, global_size=224, local_size=98, jitter_p=1.0, blur_p=1.0, grey_p=0.0)
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append([load(source, [0], epoch) for epoch in range(5)])
    for one, two, five in zip(*found, strict=True):
        assert same(one, two)
        assert same(one, five)


def test_workers_change_nothing(photos: Path) -> None:
    """Runs with another number of workers could not be compared."""

    def read(workers: int) -> list[MultiCropBatch]:
        settings = LoaderSettings(workers=workers, connections=workers)
        loader = Loader(make_source(photos), batch_size=4, lanes=2, seed=0, settings=settings)
        batches = loader.iterate(DataPosition())
        found = [batch for _, batch in (next(batches) for _ in range(7))]
        batches.close()
        return found

    first = read(1)
    assert sorted(n for batch in first[:3] for n in batch.samples.tolist()) == list(range(SAMPLES))
    for workers in (2, 4):
        assert all(same(one, two) for one, two in zip(first, read(workers), strict=True))


def test_captions_are_not_read(tmp_path: Path) -> None:
    """Shards without captions, or with bad ones, could not be used."""
    write_shard(tmp_path / "0.tar", [("0.png", solid(5)), ("0.txt", b"\xff"), ("1.txt", b"no image"), ("2.png", b"x")])
    source = make_source(tmp_path)
    assert len(source) == 3
    assert source.rows(np.array([2, 0])).tolist() == [[2], [0]]
    assert set(source.reader.read(np.array([0]))[0]) == {"png"}  # type: ignore[arg-type]
    settings = LoaderSettings(bad_share=1.0, prefetch=0, ledger=tmp_path / "bad.jsonl")
    batches = Loader(source, batch_size=3, lanes=1, seed=0, settings=settings).iterate(DataPosition())
    batch = next(batches)[1]
    batches.close()
    assert set(batch.samples.tolist()) == {0}
    reasons = {row["sample"]: row["reason"] for row in read_ledger(tmp_path / "bad.jsonl")}
    assert reasons[1] == "lacks an image"
    assert reasons[2].startswith(".png: ")


def test_shards_without_images_are_named_at_the_start(photos: Path) -> None:
    """A run would put every sample of them into quarantine."""
    write_shard(photos / "text.tar", [("0.txt", b"a")])
    with pytest.raises(InputError, match=r"text\.tar: no sample has an image; it holds \.txt$"):
        make_source(photos)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU's driver")
def test_batches_can_be_page_locked(photos: Path) -> None:
    """Copies to the GPU would wait for the step before."""
    assert all(tensor.is_pinned() for tensor in vars(make_source(photos).empty(2, pin=True)).values())
