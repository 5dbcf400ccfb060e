"""Human similarity triplets: a table of judgements over images, which lie in shards or in a folder of files.

Shards: `triplets.csv` beside them (pineco data prepare writes both). Files: NIGHTS' layout, data.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pineco.data_pipeline.batches import CaptionedTripletBatch, TripletBatch
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.decode import DecodeCounts
from pineco.data_pipeline.images.image_text import IMAGE_EXTENSIONS, Tokenize, read_image
from pineco.data_pipeline.images.transforms import resize_square
from pineco.data_pipeline.index import GROUP_BYTES
from pineco.data_pipeline.order import Extents, cut_extents
from pineco.data_pipeline.randomness import Stream, permutation
from pineco.data_pipeline.reading.reader import Members, RowReader, SampleError
from pineco.data_pipeline.reading.shard_set import ShardOptions, open_shards
from pineco.data_pipeline.triplets.image_files import ImageFiles
from pineco.data_pipeline.triplets.prompt_captions import PromptCaptions
from pineco.data_pipeline.triplets.rows import RowChoice, Ties, choose_rows, describe
from pineco.data_pipeline.triplets.table import TripletTable, read_nights, read_table


class TripletSource:
    """Fills batches of triplets.

    split, min_votes, ties, share: see RowChoice; `chosen` counts what they leave out.
    shuffled: the control. The votes are dealt out anew among the rows that were chosen: same images, same balance of
    left and right, no judgement left in them; prompts stay with their images.
    tokenize: makes batches captioned, see PromptCaptions. caption: its template.
    """

    def __init__(
        self,
        table: TripletTable,
        reader: RowReader,
        *,
        image_size: int,
        split: str,
        min_votes: int,
        seed: int,
        ties: Ties = "drop",
        share: float = 1.0,
        shuffled: bool = False,
        tokenize: Tokenize | None = None,
        caption: str = "{}",
    ) -> None:
        self.reader, self.image_size, self.decoded = reader, image_size, DecodeCounts()
        choice = RowChoice(split=split, min_votes=min_votes, ties=ties, share=share, seed=seed)
        self.chosen = choose_rows(table, choice)
        self._images = table.images[self.chosen.rows]
        votes = table.right_vote[self.chosen.rows]
        self._votes = votes[permutation(len(votes), seed, Stream.SHUFFLED_VOTES)] if shuffled else votes
        self._captions = None if tokenize is None else PromptCaptions(table, self.chosen.rows, tokenize, caption)
        self._about = f"{table.where}: {describe(choice, self.chosen)}" + (", with shuffled votes" if shuffled else "")
        if self._captions is not None:
            self._about += f", with {self._captions.distinct:,} different prompts"

    def describe(self) -> str:
        """What is read and what is left out, in one line for a log."""
        return self._about

    def __len__(self) -> int:
        return len(self._images)

    def extents(self, lanes: int) -> Extents:
        """Runs of rows whose images have 16 MiB together; where they are neighbours, one range reads them."""
        most = max(1, int(GROUP_BYTES / (3 * self.reader.row_bytes)))
        sizes = np.diff(np.append(np.arange(0, len(self), most), len(self)))
        return cut_extents([sizes], lanes=lanes)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        return self._images[samples]

    def empty(self, samples: int, *, pin: bool) -> TripletBatch:
        shape = (samples, 3, self.image_size, self.image_size)
        reference, left, right = (torch.empty(shape, dtype=torch.uint8, pin_memory=pin) for _ in range(3))
        votes = torch.empty(samples, dtype=torch.float32, pin_memory=pin)
        numbers = torch.empty(samples, dtype=torch.int64, pin_memory=pin)
        if self._captions is None:
            return TripletBatch(reference, left, right, votes, numbers)
        tokens = torch.empty((samples, self._captions.context), dtype=torch.int64, pin_memory=pin)
        return CaptionedTripletBatch(reference, left, right, votes, numbers, tokens)

    def fill(self, batch: TripletBatch, slot: int, sample: int, epoch: int, rows: Sequence[Members]) -> None:
        """No augmentation, as published, so that `epoch` changes nothing. Raises SampleError where an image is none."""
        for part, side in enumerate((batch.reference, batch.left, batch.right)):
            try:
                side[slot] = resize_square(read_image(rows[part], self.decoded), self.image_size)
            except SampleError as error:
                raise SampleError(str(error), part) from None
        batch.right_vote[slot] = float(self._votes[sample])
        batch.samples[slot] = sample
        if self._captions is not None and isinstance(batch, CaptionedTripletBatch):
            batch.tokens[slot] = self._captions.tokens(sample)


def open_triplets(root: str, options: ShardOptions | None = None) -> tuple[TripletTable, RowReader]:
    """The table and the images of a folder of shards, of a prefix, or of a folder in NIGHTS' layout."""
    if not root.startswith("s3://"):
        if (Path(root) / "data.csv").is_file():
            files = read_nights(Path(root))
            return files.table, ImageFiles(Path(root), files.paths)
        if not any(Path(root).glob("*.tar")):
            raise InputError(f"{root}: holds neither NIGHTS' data.csv nor *.tar shards of triplets; check the path")
    shards = open_shards(root, options)
    shards.require(IMAGE_EXTENSIONS, "an image")
    return read_table(shards.store, len(shards.index)), shards.reader(IMAGE_EXTENSIONS)
