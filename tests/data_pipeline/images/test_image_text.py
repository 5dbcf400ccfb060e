"""Image-text pairs: every image with its own caption, every bad sample named and replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pineco.data_pipeline.batches import ImageTextBatch
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.image_text import ImageTextSource
from pineco.data_pipeline.images.transforms import Augmentation
from pineco.data_pipeline.loader import DataPosition, Loader, LoaderSettings
from pineco.data_pipeline.reading.quarantine import read_ledger
from pineco.data_pipeline.reading.reader import SampleError
from pineco.data_pipeline.reading.shard_set import ShardOptions, open_shards
from tests.support.shards import encode, natural_image, solid, write_shard

SAMPLES = 24  # in three shards of eight


def tokenize(texts: list[str]) -> Tensor:
    """(B, 1): the number that ends each caption, 0 for none."""
    return torch.tensor([[int((text.split() or ["0"])[-1])] for text in texts])


def make_source(root: Path, **options: Any) -> ImageTextSource:
    usual: dict[str, Any] = {"image_size": 8, "tokenize": tokenize, "seed": 3, "augmentation": Augmentation()}
    return ImageTextSource(open_shards(str(root), ShardOptions(memory=0)), **(usual | options))


def load(source: ImageTextSource, numbers: np.ndarray, epoch: int) -> ImageTextBatch:
    """These samples in this order; raises SampleError for a bad one."""
    batch, found = source.empty(len(numbers), pin=False), source.reader.read(np.unique(numbers))
    for slot, number in enumerate(numbers.tolist()):
        members = found[number]
        assert not isinstance(members, SampleError)
        source.fill(batch, slot, number, epoch, [members])
    return batch


def read_epoch(source: ImageTextSource, ledger: Path, **options: Any) -> tuple[list[int], list[dict[str, Any]]]:
    """The samples of one epoch of the loader, and the bad ones that it wrote down."""
    usual: dict[str, Any] = {"bad_share": 1.0, "prefetch": 0, "ledger": ledger}
    settings = LoaderSettings(**(usual | options))
    loader = Loader(source, batch_size=2, lanes=2, seed=0, settings=settings)
    batches = loader.iterate(DataPosition())
    samples = [n for _ in range(loader.batches_per_epoch) for n in next(batches)[1].samples.tolist()]
    batches.close()
    return samples, read_ledger(ledger) if ledger.is_file() else []


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
    batch = load(source, numbers, epoch=0)
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
    drawn = np.array([load(source, numbers, epoch).tokens[:, 0].numpy() for epoch in range(20)])
    assert (drawn // 100 == numbers).all()
    assert all(len(set(of_sample)) >= 4 for of_sample in drawn.T)
    counts = np.bincount(drawn.flatten() % 100, minlength=5)
    assert sum((counts - 96) ** 2 / 96) < 18.5  # chi-square, 4 degrees of freedom, p = 0.001
    assert load(make_source(pairs, captions="any"), numbers[7:9], 13).tokens[:, 0].tolist() == drawn[13, 7:9].tolist()
    assert load(make_source(pairs, captions="any", seed=4), numbers, 13).tokens[:, 0].tolist() != drawn[13].tolist()


def test_pixels_depend_on_seed_epoch_and_sample_only(tmp_path: Path) -> None:
    """Batch size, order or number of workers would change the crops."""
    files = [(f"{i}.{e}", d) for i in range(4) for e, d in (("txt", b"n 0"), ("png", photo(i)))]
    write_shard(tmp_path / "0.tar", files)
    chosen = Augmentation(crop_scale=(0.3, 1), flip=0.5)
    source = make_source(tmp_path, augmentation=chosen)
    together = load(source, np.arange(4), epoch=2).images
    alone = load(make_source(tmp_path, augmentation=chosen), np.array([3]), epoch=2).images[0]
    assert torch.equal(together[3], alone)
    assert not torch.equal(load(source, np.array([3]), epoch=3).images[0], alone)
    assert not torch.equal(load(make_source(tmp_path, augmentation=chosen, seed=4), np.array([3]), 2).images[0], alone)


def photo(seed: int) -> bytes:
    return encode(Image.fromarray(natural_image(24, 30, seed)), "PNG")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(pairs: Path, workers: int) -> None:
    """Runs with another number of workers could not be compared."""

    def read(workers: int) -> list[ImageTextBatch]:
        settings = LoaderSettings(workers=workers, connections=workers)
        loader = Loader(make_source(pairs, captions="any"), batch_size=4, lanes=2, seed=0, settings=settings)
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
    assert load(make_source(tmp_path), np.array([0]), 0).images[0, :, 0, 0].tolist() == [5, 250, 7]


@pytest.mark.parametrize(
    ("files", "captions", "message"),
    [
        (["0.png", "1.png"], "first", r"no sample has a \.txt; it holds \.png$"),
        (["0.png", "0.txt"], "any", r"no sample has a \.json; it holds \.png, \.txt$"),
        (["0.txt", "0.gif", "1.txt"], "first", r"no sample has an image; it holds \.txt$"),
    ],
    ids=["text", "json", "image"],
)
def test_a_shard_of_another_kind_is_named_at_the_start(
    pairs: Path, files: list[str], captions: str, message: str
) -> None:
    """A run would put every sample of it into quarantine, or stop in the middle of an epoch."""
    write_shard(pairs / "shard7.tar", [(name, b"") for name in files])
    with pytest.raises(InputError, match=rf"shard7\.tar: {message}"):
        make_source(pairs, captions=captions)


@pytest.mark.parametrize(
    ("members", "captions", "reason"),
    [
        ({"png": solid(1)}, "first", "lacks a .txt"),
        ({"png": solid(1), "txt": b"number 1"}, "any", "lacks a .json"),
        ({"txt": b"number 1", "gif": b""}, "first", "lacks an image"),
        ({"json": b"{}"}, "first", "lacks a .txt"),
    ],
    ids=["text", "json", "image", "both"],
)
def test_a_missing_member_is_written_down(
    pairs: Path, tmp_path: Path, members: dict[str, bytes], captions: str, reason: str
) -> None:
    """One incomplete sample would stop a run of days, or be skipped in silence."""
    files = [("d/bad." + extension, data) for extension, data in members.items()]
    captions_file = json.dumps({"captions": ["number 25"]}).encode()
    good = [("good.png", solid(1)), ("good.txt", b"number 25"), ("good.json", captions_file)]
    shard = write_shard(pairs / "shard7.tar", [*files, *good])
    samples, ledger = read_epoch(make_source(pairs, captions=captions), tmp_path / "ledger" / "rank.jsonl")
    assert len(samples) == 26
    assert SAMPLES not in samples  # it is the first sample of the last shard
    assert set(range(26)) - set(samples) == {SAMPLES}
    (row,) = ledger
    assert (row["shard"], row["key"], row["offset"], row["reason"]) == (str(shard), "d/bad", 512, reason)


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
    assert len(load(source, np.array([0]), 0)) == 1
    with pytest.raises(SampleError, match=rf"^\.jpg: .*{message}"):
        load(source, np.array([0, 1]), 0)
    samples, (row,) = read_epoch(source, tmp_path / "rank.jsonl")
    assert samples == [0, 0]
    assert (row["shard"], row["key"], row["sample"]) == (str(tmp_path / "shard7.tar"), "d/bad", 1)
    assert row["reason"].startswith(".jpg: ")
    assert message in row["reason"]


def test_a_caption_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    """A caption would be read as other letters, or end a run without a trace of its place."""
    source = make_source(write_one(tmp_path, png=solid(1), txt="café 1".encode("latin-1")))
    samples, (row,) = read_epoch(source, tmp_path / "rank.jsonl")
    assert samples == [0, 0]
    assert (row["shard"], row["key"]) == (str(tmp_path / "shard7.tar"), "d/bad")
    assert row["reason"].startswith(".txt: no UTF-8 text")


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
        b'{"captions": ["takes 5", "\\ud800 5"]}',
        b"[" * 100_000,
    ],
)
def test_a_bad_list_of_captions_is_named(tmp_path: Path, content: bytes) -> None:
    """One letter of a caption, or the word None, would be taken for a caption."""
    write_shard(tmp_path / "shard7.tar", [("d/bad.png", solid(1)), ("d/bad.json", content)])
    source = make_source(tmp_path, captions="any")
    with pytest.raises(SampleError, match=r"^\.json: .*no list called captions"):
        load(source, np.array([0]), 0)


def test_an_odd_jpeg_is_read_and_counted(tmp_path: Path) -> None:
    """Images that only the second decoder reads would be lost, or slow a run down without a trace."""
    photo = encode(Image.fromarray(natural_image(40, 40)), "JPEG")
    odd = photo[:-2] + b"\0" * 10 + photo[-2:]  # bytes that belong to nothing, which the strict decoder refuses
    source = make_source(write_one(tmp_path, jpg=odd, txt=b"number 1"))
    load(source, np.array([0, 1]), 0)
    assert (source.decoded.decoded, source.decoded.fallbacks) == (2, 1)
    loader = Loader(source, batch_size=2, lanes=2, seed=0)
    assert loader.stats.fallbacks == 1


def test_a_damaged_shard_is_named_at_the_start(pairs: Path) -> None:
    """A cut shard would make a shorter epoch."""
    shard = pairs / "1.tar"
    shard.write_bytes(shard.read_bytes()[: 8 * 512])
    with pytest.raises(InputError, match=r"1\.tar: at byte 4096"):
        make_source(pairs)
