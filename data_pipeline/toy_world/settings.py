"""Everything that decides the bytes of a toy world, importable for nothing (a recipe holds these settings)."""

from dataclasses import dataclass, field, fields
from typing import Any

from pineco.data_pipeline.errors import InputError


def _setting(default: int, low: int, high: int, text: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "help": text})


@dataclass(frozen=True, kw_only=True)
class ToyWorldSettings:
    """Two equal settings give equal worlds, whatever machine and however many workers write them."""

    seed: int = _setting(0, 0, 2**63 - 1, "another seed gives another world")
    image_size: int = _setting(64, 16, 1024, "side of every image, in pixels")
    train_pairs: int = _setting(8000, 1, 10**8, "image-text pairs to train on")
    val_pairs: int = _setting(500, 1, 10**8, "image-text pairs to validate on")
    triplets: int = _setting(4000, 10, 10**8, "triplets, of which 80 % train, 10 % val, 10 % test")
    test_images: int = _setting(960, 1, 10**6, "images of each zero-shot set")
    retrieval_images: int = _setting(500, 1, 10**6, "images of the retrieval set")
    dense_train: int = _setting(1000, 1, 10**7, "images with mask, depth and counts to train on")
    dense_test: int = _setting(250, 1, 10**7, "images with mask, depth and counts to test on")
    shard_size: int = _setting(500, 1, 10_000, "samples in a tar file")
    jpeg_quality: int = _setting(90, 1, 100, "quality of every JPEG")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            if type(value) is not int or not low <= value <= high:
                raise InputError(f"toy world: {item.name} must be an integer from {low} to {high}, not {value!r}")


TINY = ToyWorldSettings(
    train_pairs=64, val_pairs=16, triplets=20, test_images=48, retrieval_images=32, dense_train=16,
    dense_test=8, shard_size=32,
)  # fmt: skip
"""A world for tests: about 400 images, written in about half a second once torch is imported."""
