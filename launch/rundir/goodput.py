"""Where the time of a run went, from its first start to its end: buckets that add up to the wall time.

Pure functions of what attempts.jsonl and phases.jsonl hold, so an accounting can be repeated from the files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

from pineco.launch.rundir.attempts import Attempt
from pineco.launch.rundir.heartbeat import Beat, read_beats
from pineco.launch.rundir.layout import PHASES


@dataclass(frozen=True)
class Goodput:
    """Seconds."""

    productive: float = 0.0  # steps that were saved, or are part of the attempt that is still going
    data_wait: float = 0.0  # of those steps, what rank 0 waited for data
    redo: float = 0.0  # steps after the last checkpoint of an attempt that was cut off
    save: float = 0.0
    evaluate: float = 0.0
    start: float = 0.0  # from the start of the batch script to the first step, every time
    end: float = 0.0  # after the last step: the report, the way out
    queue: float = 0.0  # between attempts

    @property
    def wall(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def share(self) -> float:
        """The productive share of the wall time, 0 to 1."""
        return self.productive / self.wall if self.wall else 0.0

    def __add__(self, other: Goodput) -> Goodput:
        return Goodput(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def account(attempts: Sequence[Attempt], phases: Sequence[Beat], now: float) -> Goodput:
    """The buckets up to `now`, seconds since the epoch; an attempt without an end goes on until the next one began.

    Where a node failed nobody wrote when, so all that followed belongs to its last phase.
    """
    total = Goodput()
    for number, attempt in enumerate(attempts):
        following = attempts[number + 1].began if number + 1 < len(attempts) else None
        ended = attempt.ended or following or now
        mine = [beat for beat in phases if attempt.began <= beat.time < ended]
        total += _attempt(attempt, mine, ended, running=attempt.ended is None and following is None)
        if following is not None:
            total += Goodput(queue=following - ended)
    return total


def _attempt(attempt: Attempt, beats: Sequence[Beat], ended: float, *, running: bool) -> Goodput:
    seconds = dict.fromkeys((field.name for field in fields(Goodput)), 0.0)
    seconds["start"] = (beats[0].time if beats else ended) - attempt.began
    closed = [*(beat.time for beat in beats[1:]), *([ended] if beats else [])]
    waited = [max(0.0, after.waited - beat.waited) for beat, after in pairwise(beats)] + [0.0] * bool(beats)
    complete = running or attempt.cause in ("done", "saved")
    saved_at = max((beat.time for beat in beats if beat.phase == "save"), default=attempt.began)
    for beat, end, wait in zip(beats, closed, waited, strict=True):
        if beat.phase != "step":
            seconds[beat.phase] += end - beat.time
        elif complete or end <= saved_at:
            idle = min(wait, end - beat.time)
            seconds["data_wait"] += idle
            seconds["productive"] += end - beat.time - idle
        else:
            seconds["redo"] += end - beat.time
    return Goodput(**seconds)


def read_phases(folder: Path) -> list[Beat]:
    """In order of time, with the newest beat of rank 0 last; a row cut by a crash is left out."""
    path, found = folder / PHASES, []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(Beat(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    if found and (newest := read_beats(folder).get(0)) is not None:
        found.append(newest)
    return sorted(found, key=lambda beat: beat.time)
