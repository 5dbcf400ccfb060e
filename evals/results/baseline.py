"""Another model's report, to which one is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pineco.data_pipeline.errors import InputError


def read_baseline_fields(path: Path, schema: str, version: int, beside: Path) -> dict[str, Any]:
    """All fields of a report in JSON.

    Raises InputError for a file that is no report of this schema and version, or where the file `beside` it is missing,
    which holds what a paired comparison needs.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--baseline {path}: cannot be read as a report ({error})") from None
    if not isinstance(data, dict) or data.get("schema") != schema or data.get("schema_version") != version:
        raise InputError(f"--baseline {path}: no report of {schema} version {version}; measure that model again")
    if not beside.is_file():
        raise InputError(f"--baseline {path}: {beside.name} is not beside it; measure that model again")
    return data
