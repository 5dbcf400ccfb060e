"""What was asked for and what was made: prepare.json beside the shards, and a record of every part in prepare/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.prepare.destination import PREPARED, RECORDS, Destination
from pineco.data_pipeline.prepare.job import Fingerprint, Made, Part
from pineco.data_pipeline.prepare.outcome import Rejected
from pineco.data_pipeline.stores.store import Store

FORMAT, VERSION = "pineco prepare", 1  # raise VERSION with any change of the bytes
_MEND = "choose another DST, or delete this one"
Plan = Mapping[str, Any]


def make_plan(kind: str, options: Mapping[str, object], source: Fingerprint) -> Plan:
    """Everything that decides bytes, as it is read from JSON again."""
    plan = {"format": FORMAT, "version": VERSION, "kind": kind, "options": dict(options), "source": asdict(source)}
    return json.loads(json.dumps(plan))


def find_plan(destination: Destination, plan: Plan) -> Mapping[str, Any] | None:
    """What prepare.json says, None where there is none; raises InputError where it was begun with another plan."""
    if destination.store.find(PREPARED) is None:
        return None
    found = _read_json(destination.store, PREPARED)
    for name in ("format", "version", "kind"):
        _compare(destination, name, found.get(name), plan[name])
    known = found.get("options")
    for name, value in plan["options"].items():
        _compare(destination, f"option {name}", known.get(name) if isinstance(known, dict) else None, value)
    if found.get("source") != plan["source"]:
        raise InputError(f"{destination.root}: SRC holds other things than when {PREPARED} was written; {_MEND}")
    return found


def begin(destination: Destination, plan: Plan) -> None:
    """Says what is to be made, and that it is not there yet."""
    _write_json(destination.store, PREPARED, {**plan, "complete": False})


def finish(destination: Destination, plan: Plan, result: Mapping[str, object]) -> None:
    """Says that everything is there; the last thing that is written."""
    _write_json(destination.store, PREPARED, {**plan, "complete": True, **result})


def write_record(store: Store, part: Part, made: Made, rejected: Sequence[Rejected]) -> None:
    """store: of the records. Written after the shard: a part without a record was not made."""
    fields = {name: value for name, value in asdict(made).items() if name != "lost"}
    fields |= {"source": part.source, "source_bytes": part.bytes}
    fields["rejected"] = [[n, r.path, r.reason, r.detail] for n, r in zip(made.lost, rejected, strict=True)]
    _write_json(store, record_name(part.number), fields)


def read_record(store: Store, part: Part) -> tuple[Made, list[Rejected]] | None:
    """The record of a part, None where it is of another source; raises InputError for a damaged one."""
    found = _read_json(store, record_name(part.number))
    try:
        if (found["source"], found["source_bytes"]) != (part.source, part.bytes):
            return None
        rows = found["rejected"]
        number, items, samples, size = (int(found[name]) for name in ("number", "items", "samples", "bytes"))
        made = Made(number, items, samples, size, tuple(int(row[0]) for row in rows))
        rejected = [Rejected(*(str(text) for text in row[1:])) for row in rows]
        if made.number != part.number or made.samples + len(rows) != made.items:
            raise ValueError("it contradicts itself")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{store.where(record_name(part.number))}: damaged ({error}); delete it") from None
    return made, rejected


def find_made(destination: Destination, parts: Sequence[Part]) -> dict[int, Made]:
    """What was made of each part whose shard is there as it was written and whose source has the same size."""
    shards, records = destination.shards.list_names(), destination.records.list_names()
    found, name = {}, destination.layout.shard
    for part in parts:
        record = read_record(destination.records, part) if record_name(part.number) in records else None
        if record is not None and (not record[0].samples or shards.get(name(part.number)) == record[0].bytes):
            found[part.number] = record[0]
    return found


def record_name(number: int) -> str:
    return f"{number:05d}.json"


def _compare(destination: Destination, name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise InputError(f"{destination.root}: was begun with {name} {found!r}, not {wanted!r}; {_MEND}")


def _write_json(store: Store, name: str, fields: Mapping[str, object]) -> None:
    store.write(name, (json.dumps(fields, indent=1) + "\n").encode())


def _read_json(store: Store, name: str) -> dict[str, Any]:
    try:
        found = json.loads(store.read(name, 0, store.size(name)))
        if not isinstance(found, dict):
            raise TypeError("no object")
    except (ValueError, TypeError, RecursionError) as error:
        where = store.where(name)
        raise InputError(f"{where}: damaged, or not of ours ({error}); delete {RECORDS}/ and it") from None
    return found
