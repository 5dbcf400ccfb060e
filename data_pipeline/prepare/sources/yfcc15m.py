"""YFCC15M, or any image-text set that img2dataset wrote: tars or folders of KEY.jpg, KEY.txt, KEY.json.

One tar or folder becomes one shard, so that shards do not depend on each other: one with rejected samples is shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import split_name
from pineco.data_pipeline.prepare.confine import LINKED_FOLDER, resolve_below
from pineco.data_pipeline.prepare.job import MAX_PARTS, Beside, Fingerprint, Made, Part, Reject, fingerprint
from pineco.data_pipeline.prepare.outcome import Kept, Outcome, Rejected, RejectError
from pineco.data_pipeline.prepare.samples.images import ImageRules
from pineco.data_pipeline.prepare.samples.pairs import make_pair
from pineco.data_pipeline.prepare.samples.texts import choose_caption, parse_metadata
from pineco.data_pipeline.prepare.sources.raw_samples import IMAGE_EXTENSIONS, RawSample, read_folder, read_tar

NO_IMAGE = "no image"
_LAYOUT = "expected img2dataset's output: *.tar with KEY.jpg, KEY.txt, KEY.json, or folders of such files"
_UNREADABLE = {
    ".parquet": "parquet is not read; let img2dataset write its webdataset format",
    ".pkl": "pickled lists run code when they are read; download with img2dataset and pass its output",
}


@dataclass(frozen=True)
class Yfcc15m:
    root: Path  # resolved
    rules: ImageRules
    parts: tuple[Part, ...]
    rejected: tuple[Rejected, ...]
    kind: str = "yfcc15m"

    @property
    def options(self) -> Mapping[str, object]:
        return asdict(self.rules)

    @property
    def source(self) -> Fingerprint:
        return fingerprint(part.source for part in self.parts)

    def outcomes(self, part: Part) -> Iterator[Outcome]:
        path = self.root / part.source
        for sample in read_tar(path) if path.is_file() else read_folder(self.root, part.source):
            if isinstance(sample, Rejected):
                yield sample
                continue
            try:
                yield self._pair(sample)
            except RejectError as error:
                yield error.at(sample.path)

    def finish(self, made: Sequence[Made], scratch: Path, reject: Reject) -> Iterator[Beside]:
        return iter(())

    def _pair(self, sample: RawSample) -> Kept:
        image = next((sample.members[e] for e in IMAGE_EXTENSIONS if e in sample.members), None)
        if image is None:
            raise RejectError(NO_IMAGE)
        metadata = parse_metadata(sample.members["json"]()) if "json" in sample.members else {}
        text = sample.members["txt"]() if "txt" in sample.members else None
        return make_pair(image(), choose_caption(text, metadata), metadata, sample.path, self.rules)


def open_yfcc15m(root: Path, rules: ImageRules) -> Yfcc15m:
    """Looks through SRC, but into no sample; raises InputError where it has another layout. root: resolved."""
    names = sorted(path.name for path in root.iterdir() if path.name[0] not in "._")
    tars = [name for name in names if name.endswith(".tar")]
    folders = [name for name in names if (root / name).is_dir()]
    if not tars and not any(_holds_images(root / name) for name in folders):
        found = next((text for ending, text in _UNREADABLE.items() if any(n.endswith(ending) for n in names)), _LAYOUT)
        raise InputError(f"{root}: {found}")
    parts: list[Part] = []
    rejected: list[Rejected] = []
    for name in tars or folders:
        try:
            parts.append(Part(len(parts), name, _source_bytes(root, name)))
        except RejectError as error:
            rejected.append(error.at(name))
    if len(parts) > MAX_PARTS:
        raise InputError(f"{root}: {len(parts)} shards; keys have five digits for the shard, so split SRC in two")
    return Yfcc15m(root, rules, tuple(parts), tuple(rejected))


def _holds_images(folder: Path) -> bool:
    if folder.is_symlink():
        return False
    return any(split_name(path.name)[1] in IMAGE_EXTENSIONS for path in folder.iterdir())


def _source_bytes(root: Path, name: str) -> int:
    """Of a tar file, 0 for a folder; raises RejectError for one that is a link, or leads elsewhere."""
    if not (root / name).is_dir():
        return resolve_below(root, name)[1].st_size
    if (root / name).is_symlink():
        raise RejectError(LINKED_FOLDER)
    return 0
