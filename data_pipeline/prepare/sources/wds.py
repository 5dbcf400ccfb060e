"""An evaluation set in CLIP_benchmark's layout, which many programs read: from class folders, or images with captions.

test/{0..n-1}.tar      s%07d.jpg|png|webp with s%07d.cls (a class number) or s%07d.txt (captions, one a line)
test/nshards.txt       n
classnames.txt, zeroshot_classification_templates.txt; or dataset_type.txt, which says retrieval
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.confine import read_below
from pineco.data_pipeline.prepare.job import Beside, Fingerprint, Layout, Made, Part, Reject, fingerprint, slices
from pineco.data_pipeline.prepare.outcome import Kept, Outcome, Rejected, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules, check_image
from pineco.data_pipeline.prepare.samples.texts import clean_caption
from pineco.data_pipeline.prepare.samples.wds_texts import read_classnames, read_templates
from pineco.data_pipeline.prepare.sources.image_folder import open_image_folder
from pineco.data_pipeline.prepare.sources.pairs_csv import SHORT_ROW, Columns, find_columns, read_rows

LAYOUT = Layout(folder="test", name="{}.tar", counter="nshards.txt")
_SPLITS = frozenset(("train", "test", "val", "valid", "validation"))


@dataclass(frozen=True)
class Wds:
    root: Path  # resolved
    rules: ImageRules
    shard_size: int
    label: Literal["cls", "txt"]  # extension of what is known of an image
    samples: tuple[tuple[str, str], ...]  # (path below root, that)
    beside: tuple[tuple[str, bytes], ...]  # text files by name
    rejected: tuple[Rejected, ...]
    parts: tuple[Part, ...]
    kind: str = "wds"

    @property
    def options(self) -> Mapping[str, object]:
        texts = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in self.beside}
        return {"verify": self.rules.verify, "shard_size": self.shard_size} | texts

    @property
    def source(self) -> Fingerprint:
        return fingerprint(f"{path}\0{text}" for path, text in self.samples)

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        start = part.number * self.shard_size
        for number, (path, text) in enumerate(self.samples[start : start + self.shard_size], start):
            try:
                checked = check_image(read_below(self.root, path), self.rules)
                yield Kept({checked.extension: checked.data, self.label: text.encode()}, key=f"s{number:07d}")
            except RejectError as error:
                yield error.at(path)

    def finish(self, made: Sequence[Made], scratch: Path, reject: Reject) -> Iterator[Beside]:
        """Raises InputError for a shard without a sample: readers want {0..n-1}.tar, and refuse empty ones."""
        for part in made:
            if not part.samples:
                last = self.samples[part.number * self.shard_size + part.items - 1][0]
                raise InputError(
                    f"{self.root}: none of {part.items} images in a row, up to {last!r}, can be used, a whole shard; "
                    "convert them or take them out of SRC, and choose another DST"
                )
        yield from self.beside


def open_wds_folders(
    source: Path,
    rules: ImageRules,
    shard_size: int,
    *,
    split: str | None = None,
    classnames: Path | None = None,
    templates: Path | None = None,
) -> Wds:
    """Class folders as torchvision's ImageFolder numbers them: by name. source: resolved.

    split: the folder of SRC that holds them. classnames: see `read_classnames`; the folders' own names without it.
    Raises InputError where SRC or a file has another layout.
    """
    root = split_folder(source, split)
    found = open_image_folder(root, rules, shard_size)
    names = found.classes if classnames is None else read_classnames(classnames, found.classes)
    return Wds(
        root=root,
        rules=rules,
        shard_size=shard_size,
        label="cls",
        samples=tuple((path, str(number)) for number, path in found.images),
        beside=(
            ("classnames.txt", "\n".join(names).encode()),
            ("zeroshot_classification_templates.txt", "\n".join(read_templates(templates)).encode()),
        ),
        rejected=found.rejected,
        parts=found.parts,
    )


def open_wds_captions(source: Path, table: Path, columns: Columns, rules: ImageRules, shard_size: int) -> Wds:
    """Images below SRC and a table of their captions, a row each; an image comes where its first row is.

    source: resolved. Raises InputError where the table is none, lacks a column, or has no usable row.
    """
    if not table.is_file():
        raise InputError(f"{table}: no such file; --captions is a table of image paths and captions")
    image, caption, begin = find_columns(table, columns)
    captions: dict[str, list[str]] = {}
    rejected = []
    for number, (row, _) in enumerate(read_rows(table, columns.separator, begin), 1):
        path = row[image] if image < len(row) else f"row {number}"
        try:
            if len(row) <= max(image, caption):
                raise RejectError(SHORT_ROW)
            text = " ".join(clean_caption(row[caption]).splitlines())
            captions.setdefault(path, []).append(text)
        except RejectError as error:
            rejected.append(error.at(path))
    if not captions:
        raise InputError(f"{table}: no row with an image and a caption below its first line")
    return Wds(
        root=source,
        rules=rules,
        shard_size=shard_size,
        label="txt",
        samples=tuple((path, "\n".join(texts)) for path, texts in captions.items()),
        beside=(("dataset_type.txt", b"retrieval"),),
        rejected=tuple(rejected),
        parts=slices(len(captions), shard_size, "images"),
    )


def split_folder(source: Path, split: str | None) -> Path:
    """The folder that holds class folders; raises InputError where splits of a data set would be taken for classes."""
    folders = sorted(
        p.name for p in source.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")
    )
    if split is not None:
        if split not in folders:
            raise InputError(
                f"{source}: no folder {split!r} for --split; it has {', '.join(folders[:5]) or 'no folder'}"
            )
        return source / split
    if folders and _SPLITS.issuperset(folders):
        raise InputError(f"{source}: holds {', '.join(folders)} instead of classes; pass --split {folders[0]}")
    return source
