"""Every start of a run under a scheduler, how it ended, and whether another one is worth it: `RUN/job/attempts.jsonl`.

The decision is a pure function of these rows, so that it can be read and tested without a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pineco.launch.rundir.layout import ATTEMPTS

Cause = Literal["done", "saved", "bad input", "crash", "killed", "hang", "lost", "port", "cancelled"]
WITHOUT_PROGRESS = 3  # faults in a row that saved no further step; one more is not begun
STARTS_WITHOUT_PROGRESS = 20  # the same of starts that were told to stop, or whose port was taken
_NO_FAULT: tuple[Cause, ...] = ("saved", "port", "cancelled")


@dataclass(frozen=True)
class Attempt:
    """One start. `lost`: nobody could write how it ended, because the node failed."""

    number: int
    job: str
    began: float  # seconds since the epoch
    from_step: int  # steps that were saved before, over both stages
    ended: float | None = None
    to_step: int = 0  # steps that are saved at the end
    cause: Cause = "lost"
    code: int | None = None  # exit code of the ranks
    crash: str | None = None  # step and trace of the first rank that raised
    why: str = ""  # in words, for people

    @property
    def key(self) -> str:
        """JOB.NUMBER, no other attempt's."""
        return f"{self.job}.{self.number}"

    @property
    def progress(self) -> bool:
        return self.to_step > self.from_step


@dataclass(frozen=True)
class Decision:
    action: Literal["end", "again", "give up"]
    why: str


def decide(attempts: Sequence[Attempt], *, stop_asked: bool) -> Decision:
    """What to do after the last of these attempts, which has ended."""
    last = attempts[-1]
    if last.cause == "done":
        return Decision("end", "done")
    if last.cause == "cancelled":
        return Decision("end", f"cancelled with {last.to_step} steps saved")
    if stop_asked:
        return Decision("end", f"stopped as asked with {last.to_step} steps saved")
    if last.cause == "bad input":
        return Decision("give up", "bad input, which another start would find again; see the log")
    starts = _since_progress(attempts)
    if starts >= STARTS_WITHOUT_PROGRESS:
        why = f"{starts} starts in a row saved no further step, the last one: {last.why}; is the time limit too short?"
        return Decision("give up", why)
    if last.cause in _NO_FAULT:
        return Decision("again", last.why)
    before = attempts[-2] if len(attempts) > 1 else None
    if last.crash is not None and before is not None and before.crash == last.crash:
        return Decision("give up", f"the same error twice at the same place: {last.crash.splitlines()[0]}")
    idle = sum(attempt.cause not in _NO_FAULT for attempt in attempts[-starts:]) if starts else 0
    if idle >= WITHOUT_PROGRESS:
        return Decision("give up", f"{idle} attempts in a row saved no further step, the last one: {last.why}")
    return Decision("again", f"{last.why or last.cause}: starts again with {last.to_step} steps saved")


def _since_progress(attempts: Sequence[Attempt]) -> int:
    """How many at the end of the list saved no further step."""
    for number, attempt in enumerate(reversed(attempts)):
        if attempt.progress:
            return number
    return len(attempts)


def finished(attempts: Sequence[Attempt], saved: int) -> bool:
    """Whether the last attempt ended a run whose steps are all still there. saved: steps that are saved now."""
    return bool(attempts) and attempts[-1].cause == "done" and saved >= attempts[-1].to_step


def read_attempts(folder: Path) -> list[Attempt]:
    """By number; the last row of a number counts. A row cut by a crash counts as not written."""
    rows: dict[int, Attempt] = {}
    path = folder / ATTEMPTS
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = Attempt(**json.loads(line))
        except (ValueError, TypeError):
            continue
        rows[row.number] = row
    return [rows[number] for number in sorted(rows)]


def write_attempt(folder: Path, attempt: Attempt) -> None:
    """Appends the row, on a line of its own even after one that was cut."""
    path = folder / ATTEMPTS
    cut = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if cut else "") + json.dumps(asdict(attempt)) + "\n")
        file.flush()
