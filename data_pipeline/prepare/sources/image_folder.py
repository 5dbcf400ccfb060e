"""Class folders of images, SRC/CLASS/...: KEY.jpg, KEY.cls, KEY.txt with the class's name, and classnames.txt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import LINKED_FOLDER, image_files, read_below
from pineco.data_pipeline.prepare.job import Beside, Fingerprint, Made, Part, Reject, fingerprint, slices
from pineco.data_pipeline.prepare.outcome import Kept, Outcome, Rejected, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules, check_image

CLASSNAMES = "classnames.txt"


@dataclass(frozen=True)
class ImageFolder:
    root: Path  # resolved
    rules: ImageRules
    shard_size: int
    classes: tuple[str, ...]  # by number
    images: tuple[tuple[int, str], ...]  # (number of its class, path)
    rejected: tuple[Rejected, ...]
    parts: tuple[Part, ...]
    kind: str = "image-folder"

    @property
    def options(self) -> Mapping[str, object]:
        return asdict(self.rules) | {"shard_size": self.shard_size}

    @property
    def source(self) -> Fingerprint:
        return fingerprint([*self.classes, *(path for _, path in self.images)])

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        start = part.number * self.shard_size
        for number, path in self.images[start : start + self.shard_size]:
            try:
                checked = check_image(read_below(self.root, path), self.rules)
            except RejectError as error:
                yield error.at(path)
                continue
            name = self.classes[number].encode()
            yield Kept({checked.extension: checked.data, "cls": b"%d" % number, "txt": name})

    def finish(self, made: Sequence[Made], scratch: Path, reject: Reject) -> Iterator[Beside]:
        yield CLASSNAMES, "\n".join(self.classes).encode()


@dataclass(frozen=True)
class Classes:
    """What class folders hold."""

    names: tuple[str, ...]  # by number
    images: tuple[tuple[int, str], ...]  # (number of its class, path), by class and path
    rejected: tuple[Rejected, ...]


def find_classes(root: Path) -> Classes:
    """Lists class folders; raises InputError where there are none with images. root: resolved.

    A class is a folder directly below root; its number is its place in the order of names, whether or not it holds
    images. Images in folders below it belong to it.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    rejected = [Rejected(path.name, LINKED_FOLDER) for path in folders if path.is_symlink()]
    classes = tuple(path.name for path in folders if not path.is_symlink())
    for name in classes:
        if not name.isprintable():
            raise InputError(f"{root}: {name!r} is no name of a class (classnames.txt has one a line); rename it")
    images = []
    for number, name in enumerate(classes):
        for found in image_files(root, name):
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                images.append((number, found))
    if not images:
        raise InputError(f"{root}: no image in a folder of its own class; expected SRC/CLASS/NAME.jpg")
    return Classes(classes, tuple(images), tuple(rejected))


def open_image_folder(root: Path, rules: ImageRules, shard_size: int) -> ImageFolder:
    """Lists SRC; raises InputError where it has no class folders with images. root: resolved."""
    found = find_classes(root)
    parts = slices(len(found.images), shard_size, "images")
    return ImageFolder(root, rules, shard_size, found.names, found.images, found.rejected, parts)
