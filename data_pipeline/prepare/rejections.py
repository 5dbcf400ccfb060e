"""Everything that was left out: counted by reason, a few named, all of them listed in one file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from pineco.data_pipeline.prepare.outcome import Rejected

REJECTED = "rejected.jsonl"
EXAMPLES = 3  # of each reason that are shown


class Rejections:
    """Appends to a file as they come, so that millions of them take no memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self._file = path.open("w", encoding="ascii")

    def add(self, rejected: Rejected) -> None:
        self.counts[rejected.reason] += 1
        shown = self.examples.setdefault(rejected.reason, [])
        if len(shown) < EXAMPLES:
            shown.append(rejected.path)
        line = {"path": rejected.path, "reason": rejected.reason, "detail": rejected.detail}
        self._file.write(json.dumps(line) + "\n")  # in ASCII: paths may be no UTF-8, and come from strangers

    def close(self) -> None:
        self._file.close()

    def summary(self) -> dict[str, dict[str, object]]:
        """By reason, the most frequent one first: how many, and a few of them."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return {reason: {"items": items, "examples": self.examples[reason]} for reason, items in ordered}
