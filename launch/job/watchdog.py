"""Finds a run that hangs: ranks that do not move for longer than their phase allows. Reads files only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pineco.launch.cluster import Limits
from pineco.launch.rundir.heartbeat import Beat, read_beats

_LIFE = 4.0  # seconds; the heartbeat of a rank that waits for others still writes every second
_STACKS = 3.0  # seconds that the ranks have to write where they are


class Watchdog:
    def __init__(self, folder: Path, limits: Limits, ranks: int, *, say: Callable[[str], None]) -> None:
        """folder: job/ of a run."""
        self._folder, self._limits, self._ranks, self._say = folder, limits, ranks, say
        self._began: float | None = None
        self._seen: dict[int, _Seen] = {}
        self._spoken: set[tuple[int, int]] = set()

    def look(self, now: float) -> str | None:
        """What hangs, in words; None while everything moves. now: seconds of a clock that only goes forward.

        Silence is counted by this clock, so that clocks of nodes may differ or be set.
        """
        self._began = now if self._began is None else self._began
        for rank, beat in read_beats(self._folder).items():
            self._seen[rank] = _seen(self._seen.get(rank), beat, now)
        missing = self._ranks - len(self._seen)
        if missing:
            waited = now - self._began
            return f"{missing} ranks did not start in {waited:.0f} s" if waited > self._limits.start else None
        rank, seen = self._suspect(now)
        where = f"{seen.beat.phase} after step {seen.beat.step}"
        limit = max(getattr(self._limits, other.beat.phase) for other in self._seen.values())  # for the slowest phase
        if (stuck := now - min(other.moved for other in self._seen.values())) > limit:
            return f"rank {rank} hangs: {where}, nothing moved for {stuck:.0f} s, no life for {now - seen.alive:.0f} s"
        if now - seen.alive > _LIFE and (rank, seen.beat.step) not in self._spoken:
            self._spoken.add((rank, seen.beat.step))
            self._say(f"rank {rank} shows no life: {where}")
        return None

    def _suspect(self, now: float) -> tuple[int, _Seen]:
        """The rank that the others wait for: one without life, else the one with the fewest steps."""
        lifeless = {rank: seen for rank, seen in self._seen.items() if now - seen.alive > _LIFE}
        return min((lifeless or self._seen).items(), key=lambda item: (item[1].beat.step, item[1].moved))

    def collect_stacks(self, ask: Callable[[], None]) -> None:
        """Has all ranks write the stacks of their threads into stacks/; a stopped one cannot."""
        ask()
        time.sleep(_STACKS)


@dataclass(frozen=True)
class _Seen:
    """The newest beat of a rank, and when it was first seen to be alive, and at this phase and step."""

    beat: Beat
    alive: float
    moved: float


def _seen(before: _Seen | None, beat: Beat, now: float) -> _Seen:
    if before is None:
        return _Seen(beat, now, now)
    alive = before.alive if beat == before.beat else now
    moved = before.moved if (beat.phase, beat.step) == (before.beat.phase, before.beat.step) else now
    return _Seen(beat, alive, moved)
