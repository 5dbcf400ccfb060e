"""What an evaluation has finished, kept task by task: one that was cut off goes on with the rest.

KEY.json          the result, or why there is none, and what it depends on; "/" in a key becomes "-"
KEY.safetensors   what the model did with every image, where there is a result
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.evals.data.datasets import Folder, fingerprint
from pineco.evals.data.tasks import Task
from pineco.evals.models.model import Model
from pineco.evals.results.results import EvalResult
from pineco.evals.zeroshot.outcomes import Outcomes, load_outcomes, save_outcomes

_VERSION = 1  # of what a figure means; a higher one measures everything again


class Parts:
    """Those of one model in one folder."""

    def __init__(self, folder: Path | None, model: Model) -> None:
        """folder: made when something is kept; None keeps nothing."""
        self._folder, self._model = folder, model

    def find(self, task: Task, folder: Folder) -> EvalResult | None:
        """The result that is there already, of the same weights, precision, data and prompts; None where none is."""
        found = self._read(task, folder)
        try:
            result = EvalResult.from_dict(found["result"])
            load_outcomes(self._path(task).with_suffix(".safetensors"))  # raises where it is damaged
        except (KeyError, InputError):
            return None  # measured again, and replaced
        return result if result.data else None  # one of an older version, which no comparison could check

    def find_failure(self, task: Task, folder: Folder) -> str | None:
        """Why the same data gave no figure; a second start tries again, for a server may be back."""
        why = self._read(task, folder).get("failed")
        return None if why is None else str(why)

    def keep(self, task: Task, folder: Folder, result: EvalResult, outcomes: Outcomes) -> None:
        """The outcomes first, so that a result never stands without them."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_outcomes(self._path(task).with_suffix(".safetensors"), outcomes)
            self._write(task, folder, {"result": asdict(result)})

    def keep_failure(self, task: Task, folder: Folder, why: str) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(task, folder, {"failed": why})

    def _read(self, task: Task, folder: Folder) -> dict[str, Any]:
        """What is kept; empty where nothing is, or it depends on something else, or is damaged."""
        if self._folder is None:
            return {}
        try:
            found = json.loads(self._path(task).read_text(encoding="utf-8"))
            return found if found["depends_on"] == self._depends_on(task, folder) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write(self, task: Task, folder: Folder, content: dict[str, Any]) -> None:
        content = {"depends_on": self._depends_on(task, folder), **content}
        write_text_atomically(self._path(task), json.dumps(content, indent=1, allow_nan=False) + "\n")

    def _path(self, task: Task) -> Path:
        assert self._folder is not None
        return self._folder / f"{file_name(task.key)}.json"

    def _depends_on(self, task: Task, folder: Folder) -> str:
        words = [_VERSION, self._model.identity, self._model.precision, asdict(task), fingerprint(folder)]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def file_name(key: str) -> str:
    """Of a task's files, without the extension."""
    return key.replace("/", "-")
