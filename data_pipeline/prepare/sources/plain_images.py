"""A folder of images without captions or labels, at any depth: KEY.jpg|png|webp, in the order of paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import image_files, read_below
from pineco.data_pipeline.prepare.job import Beside, Fingerprint, Made, Part, Reject, fingerprint, slices
from pineco.data_pipeline.prepare.outcome import Kept, Outcome, Rejected, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules, check_image


@dataclass(frozen=True)
class PlainImages:
    root: Path  # resolved
    rules: ImageRules
    shard_size: int
    images: tuple[str, ...]  # paths below root
    rejected: tuple[Rejected, ...]
    parts: tuple[Part, ...]
    kind: str = "images"

    @property
    def options(self) -> Mapping[str, object]:
        return asdict(self.rules) | {"shard_size": self.shard_size}

    @property
    def source(self) -> Fingerprint:
        return fingerprint(self.images)

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        start = part.number * self.shard_size
        for path in self.images[start : start + self.shard_size]:
            try:
                checked = check_image(read_below(self.root, path), self.rules)
            except RejectError as error:
                yield error.at(path)
            else:
                yield Kept({checked.extension: checked.data})

    def finish(self, made: Sequence[Made], scratch: Path, reject: Reject) -> Iterator[Beside]:
        return iter(())


def open_plain_images(root: Path, rules: ImageRules, shard_size: int) -> PlainImages:
    """Lists SRC and all folders below it; raises InputError where there is no image. root: resolved."""
    found = list(image_files(root, ""))
    images = tuple(path for path in found if not isinstance(path, Rejected))
    if not images:
        raise InputError(f"{root}: no image in it or below (*.jpg, *.png, *.webp); tars are shards already, index them")
    rejected = tuple(path for path in found if isinstance(path, Rejected))
    return PlainImages(root, rules, shard_size, images, rejected, slices(len(images), shard_size, "images"))
