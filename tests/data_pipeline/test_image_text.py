"""Image-text pairs: every image with its own caption, and every bad sample named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_pipeline.batches import ImageTextBatch
from data_pipeline.errors import InputError
from data_pipeline.image_text import ImageTextSource
from data_pipeline.loader import DataPosition, Loader
from data_pipeline.transforms import Augmentation
from tests.data_pipeline.conftest import encode, natural_image, solid, write_shard

SAMPLES = 24  # in three shards of eight


def tokenize(texts: list[str]) -> Tensor:
    """(B, 1): the number that ends each caption."""
    return torch.tensor([[int(text.split()[-1])] for text in texts])


def make_source(root: Path, **options: Any) -> ImageTextSource:
    options = {"image_size": 8, "tokenize": tokenize, "seed": 3, "augmentation": Augmentation()} | options
    return ImageTextSource(str(root), **options)


def write_one(root: Path, **members: bytes) -> Path:
    """A folder with one shard: a good sample, and one with these members."""
    files = [("good.png", solid(1)), ("good.txt", b"number 1")]
    write_shard(root / "shard7.tar", [*files, *((f"d/bad.{e}", data) for e, data in members.items())])
    return root


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Sample i is of colour 10 i, its caption ends with i, its captions with 100 i .. 100 i + 4."""
    for shard in range(3):
        files = []
        for i in range(8 * shard, 8 * shard + 8):
            captions = json.dumps({"captions": [f"takes {100 * i + c}" for c in range(5)]}).encode()
            files += [
                (f"{i:03}.png", solid(10 * i)),
                (f"{i:03}.txt", f"número {i}".encode()),
                (f"{i:03}.json", captions),
            ]
        write_shard(tmp_path / f"{shard}.tar", files)
    return tmp_path


def test_images_meet_their_own_captions(pairs: Path) -> None:
    """The model would learn from captions of other images, and nothing would fail."""
    source = make_source(pairs)
    assert len(source) == SAMPLES
    numbers = np.random.default_rng(0).permutation(SAMPLES)
    batch = source.load(numbers, epoch=0)
    assert (batch.images.shape, batch.images.dtype) == ((SAMPLES, 3, 8, 8), torch.uint8)
    assert batch.samples.tolist() == batch.tokens[:, 0].tolist() == numbers.tolist()
    for image, number in zip(batch.images, numbers, strict=True):
        assert image.unique(dim=1).flatten(1).unique(dim=1).flatten().tolist() == [10 * number, 255 - 10 * number, 7]


def test_extents_count_the_bytes_of_all_members(pairs: Path) -> None:
    """Reads would be much longer than planned."""
    extents = make_source(pairs).extents(lanes=1)
    assert extents.samples == SAMPLES
    assert len(extents.first) == SAMPLES  # a small set: every sample by itself


def test_any_caption_is_drawn_anew_in_every_epoch(pairs: Path) -> None:
    """The model would see one caption of five, or another one after a resumption."""
    source = make_source(pairs, captions="any")
    numbers = np.arange(SAMPLES)
    drawn = np.array([source.load(numbers, epoch).tokens[:, 0].numpy() for epoch in range(20)])
    assert (drawn // 100 == numbers).all()
    assert all(len(set(of_sample)) >= 4 for of_sample in drawn.T)
    counts = np.bincount(drawn.flatten() % 100, minlength=5)
    assert sum((counts - 96) ** 2 / 96) < 18.5  # chi-square, 4 degrees of freedom, p = 0.001
    assert make_source(pairs, captions="any").load(numbers[7:9], 13).tokens[:, 0].tolist() == drawn[13, 7:9].tolist()
    assert make_source(pairs, captions="any", seed=4).load(numbers, 13).tokens[:, 0].tolist() != drawn[13].tolist()


def test_pixels_depend_on_seed_epoch_and_sample_only(tmp_path: Path) -> None:
    """Batch size, order or number of workers would change the crops."""
    files = [(f"{i}.{e}", d) for i in range(4) for e, d in (("txt", b"n 0"), ("png", photo(i)))]
    write_shard(tmp_path / "0.tar", files)
    chosen = Augmentation(crop_scale=(0.3, 1), flip=0.5)
    source = make_source(tmp_path, augmentation=chosen)
    together = source.load(np.arange(4), epoch=2).images
    alone = make_source(tmp_path, augmentation=chosen).load(np.array([3]), epoch=2).images[0]
    assert torch.equal(together[3], alone)
    assert not torch.equal(source.load(np.array([3]), epoch=3).images[0], alone)
    assert not torch.equal(make_source(tmp_path, augmentation=chosen, seed=4).load(np.array([3]), 2).images[0], alone)


def photo(seed: int) -> bytes:
    return encode(Image.fromarray(natural_image(24, 30, seed)), "PNG")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(pairs: Path, workers: int) -> None:
    """Runs with another number of workers could not be compared."""

    def read(workers: int) -> list[ImageTextBatch]:
        loader = Loader(make_source(pairs, captions="any"), batch_size=4, lanes=2, seed=0, workers=workers)
        batches = loader.iterate(DataPosition())
        found = [batch for _, batch in (next(batches) for _ in range(9))]
        batches.close()
        return found

    for one, two in zip(read(workers), read(2), strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.tokens, two.tokens)
        assert torch.equal(one.samples, two.samples)


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "PNG"])
def test_image_extensions(tmp_path: Path, extension: str) -> None:
    """Shards of another writer could not be read."""
    image = solid(5)  # a PNG, whatever its name
    write_shard(tmp_path / "0.tar", [(f"0.{extension}", image), ("0.txt", b"number 0")])
    assert make_source(tmp_path).load(np.array([0]), 0).images[0, :, 0, 0].tolist() == [5, 250, 7]


@pytest.mark.parametrize(
    ("members", "captions", "message"),
    [
        ({"png": solid(1)}, "first", r"sample 'd/bad' lacks a \.txt$"),
        ({"png": solid(1), "txt": b"number 1"}, "any", r"lacks a \.json$"),
        ({"txt": b"number 1", "gif": b""}, "first", "sample 'd/bad' lacks an image$"),
        ({"json": b"{}"}, "first", r"sample 'd/bad' lacks an image and a \.txt$"),
    ],
    ids=["text", "json", "image", "both"],
)
def test_a_missing_member_is_named_at_the_start(
    tmp_path: Path, members: dict[str, bytes], captions: str, message: str
) -> None:
    """A run would end in the middle of an epoch, or skip the sample in silence."""
    write_one(tmp_path, **members)
    if captions == "any":  # the good sample needs one, too
        write_shard(tmp_path / "shard7.tar", [(f"d/bad.{e}", data) for e, data in members.items()])
    with pytest.raises(InputError, match=rf"shard7\.tar: .*{message}"):
        make_source(tmp_path, captions=captions)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (encode(Image.fromarray(natural_image(40, 40)), "JPEG")[:600], "damaged JPEG"),
        (solid(1)[:-30], "damaged image"),
        (b"", "starts with nothing"),
        (b"GIF89a", "not a JPEG, PNG or WebP image"),
    ],
    ids=["cut-jpeg", "cut-png", "empty", "gif"],
)
def test_a_bad_image_is_named_with_shard_and_key(tmp_path: Path, image: bytes, message: str) -> None:
    """One bad image among millions could not be found."""
    source = make_source(write_one(tmp_path, jpg=image, txt=b"number 1"))
    assert len(source.load(np.array([0]), 0)) == 1
    with pytest.raises(InputError, match=rf"shard7\.tar: d/bad\.jpg: .*{message}"):
        source.load(np.array([0, 1]), 0)


def test_a_caption_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    """A caption would be read as other letters, or end a run without a trace of its place."""
    source = make_source(write_one(tmp_path, png=solid(1), txt="café 1".encode("latin-1")))
    with pytest.raises(InputError, match=r"shard7\.tar: d/bad\.txt: no UTF-8 text"):
        source.load(np.array([1]), 0)


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[1]",
        b"{}",
        b'{"captions": []}',
        b'{"captions": "takes 5"}',
        b'{"captions": {"0": "takes 5"}}',
        b'{"captions": ["takes 5", null]}',
        b'{"captions": 5}',
        b'{"captions": ["caf\xe9"]}',
    ],
)
def test_a_bad_list_of_captions_is_named(tmp_path: Path, content: bytes) -> None:
    """One letter of a caption, or the word None, would be taken for a caption."""
    write_shard(tmp_path / "shard7.tar", [("d/bad.png", solid(1)), ("d/bad.json", content)])
    source = make_source(tmp_path, captions="any")
    with pytest.raises(InputError, match=r"shard7\.tar: d/bad\.json: .*no list called captions"):
        source.load(np.array([0]), 0)


def test_a_damaged_shard_is_named_at_the_start(pairs: Path) -> None:
    """A cut shard would make a shorter epoch."""
    shard = pairs / "1.tar"
    shard.write_bytes(shard.read_bytes()[: 8 * 512])
    with pytest.raises(InputError, match=r"1\.tar: at byte 4096"):
        make_source(pairs)
