"""What a text tower reads of triplets: the prompt of each, in a sentence, as tokens."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.images.image_text import Tokenize
from pineco.data_pipeline.triplets.caption_template import check_template, fill_template
from pineco.data_pipeline.triplets.table import PROMPT, TripletTable

_WITHOUT = "or pass objective.caption_weight=0"
_MEND = (
    "take a data.csv that has it; of prepared shards delete this file and call pineco data prepare again, "
    f"which makes no shard anew; of a toy world delete the folder; {_WITHOUT}"
)


class PromptCaptions:
    """Tokens of the chosen triplets, made when they are asked for: a table may have a prompt in every row.

    rows: (k,) int64, of the table. template: with {} where the prompt goes. Raises InputError for another template,
    for a table without prompts, and for a chosen row whose prompt is empty.
    """

    def __init__(self, table: TripletTable, rows: np.ndarray, tokenize: Tokenize, template: str) -> None:
        check_template(template, table.where)
        self._prompts, self._names = _prompts_of(table, rows), table.prompt_names
        self.tokenize, self.template = tokenize, template
        self.context = int(tokenize([""]).shape[1])

    @property
    def distinct(self) -> int:
        return len(np.unique(self._prompts))

    def tokens(self, sample: int) -> Tensor:
        """(L,) int64, of the caption of the `sample`-th chosen row."""
        caption = fill_template(self.template, self._names[self._prompts[sample]])
        tokens: Tensor = self.tokenize([caption])[0]
        return tokens


def _prompts_of(table: TripletTable, rows: np.ndarray) -> np.ndarray:
    """(k,) int32: numbers of names, none of which is empty."""
    if table.prompt is None or table.lines is None:
        raise InputError(f"{table.where}: no column {PROMPT}, which captions are made of; {_MEND}")
    prompts = table.prompt[rows]
    if "" in table.prompt_names:
        empty = np.flatnonzero(prompts == table.prompt_names.index(""))
        if len(empty):
            told = f"line {table.lines[rows[empty[0]]]}: the prompt is empty, as of {len(empty)} of {len(rows)} rows"
            raise InputError(f"{table.where}: {told} that are read; fill it in, take the row out, {_WITHOUT}")
    return prompts
