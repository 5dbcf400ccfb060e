"""A toy world as an older version wrote it."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

TABLE = "shards/triplets/triplets.csv"


def older_world(world: Path, root: Path) -> Path:
    """A copy of a world as version 2 wrote it: its table of triplets over shards has no prompts."""
    shutil.copytree(world, root)
    with (root / TABLE).open(newline="") as file:
        rows = list(csv.reader(file))
    place = rows[0].index("prompt")
    with (root / TABLE).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([r[:place] + r[place + 1 :] for r in rows])
    record, data = json.loads((root / "world.json").read_bytes()), (root / TABLE).read_bytes()
    record["schema"] = 2
    record["files"][TABLE] = [len(data), hashlib.sha256(data).hexdigest()]
    (root / "world.json").write_text(json.dumps(record, indent=1))
    return root
