"""A run that hangs is found by its files alone, and a slow one is left in peace."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from pineco.launch.cluster import Limits
from pineco.launch.job.watchdog import Watchdog
from pineco.launch.rundir.heartbeat import Beat, Heartbeat, Phase, read_beats

LIMITS = Limits(start=100, step=10, save=50, evaluate=200)


def write(folder: Path, rank: int, phase: Phase, step: int, time: float = 0.0) -> None:
    path = folder / "beats" / f"rank_{rank:05}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(Beat(phase, step, time, 1))))


def watchdog(folder: Path, said: list[str] | None = None) -> Watchdog:
    return Watchdog(folder, LIMITS, 2, say=(said if said is not None else []).append)


def test_the_rank_that_the_others_wait_for_is_named(tmp_path: Path) -> None:
    """F4: the log would name a rank that only waits."""
    said = list[str]()
    dog = watchdog(tmp_path, said)
    for second in range(11):  # rank 0 waits: it lives, but does not move
        write(tmp_path, 0, "step", 7, time=second)
        write(tmp_path, 1, "step", 7)
        assert dog.look(second) is None
    assert said == ["rank 1 shows no life: step after step 7"]
    write(tmp_path, 0, "step", 7, time=11)
    assert dog.look(11) == "rank 1 hangs: step after step 7, nothing moved for 11 s, no life for 11 s"


def test_a_rank_that_lives_but_does_not_move_is_found(tmp_path: Path) -> None:
    """A deadlock would look like work: the one with the fewest steps holds the others."""
    dog = watchdog(tmp_path)
    for second in range(11):
        write(tmp_path, 0, "step", 8, time=second)
        write(tmp_path, 1, "step", 7, time=second)
        assert dog.look(second) is None
    assert (dog.look(11) or "").startswith("rank 1 hangs: step after step 7")


def test_moving_ranks_are_not_disturbed(tmp_path: Path) -> None:
    """F5: a straggler would be killed although it goes on."""
    dog = watchdog(tmp_path)
    for second in range(0, 100, 9):
        for rank in (0, 1):
            write(tmp_path, rank, "step", second)
        assert dog.look(second) is None


def test_all_wait_for_the_slowest_phase(tmp_path: Path) -> None:
    """Ranks that wait for an evaluation by rank 0 would count as hanging."""
    dog = watchdog(tmp_path)
    write(tmp_path, 0, "evaluate", 8)
    write(tmp_path, 1, "save", 8)
    assert dog.look(0) is None
    assert dog.look(199) is None
    assert "hangs: " in (dog.look(201) or "")


def test_clocks_of_nodes_do_not_matter(tmp_path: Path) -> None:
    """F16: a node whose clock is an hour off would be taken for a hanging one."""
    dog = watchdog(tmp_path)
    for second in range(30):
        write(tmp_path, 0, "step", second, time=-3600.0 + second)
        write(tmp_path, 1, "step", second, time=3600.0 - second)
        assert dog.look(second) is None


def test_a_rank_that_never_starts_is_missed(tmp_path: Path) -> None:
    """The others would wait for its first collective until the time limit."""
    dog = watchdog(tmp_path)
    write(tmp_path, 0, "start", 0)
    assert dog.look(0) is None
    assert dog.look(101) == "1 ranks did not start in 101 s"


def test_beats_are_written_and_read(tmp_path: Path) -> None:
    """The watchdog would look at nothing; a half-written file would end it."""
    heart = Heartbeat(tmp_path, 3)
    heart.beat("save", 5)
    (found,) = read_beats(tmp_path).values()
    assert (found.phase, found.step, found.pid) == ("save", 5, os.getpid())
    (tmp_path / "beats" / "rank_00004.json").write_text('{"phase": "st')
    assert list(read_beats(tmp_path)) == [3]
    Heartbeat(None, 0).beat("step", 1)  # nowhere to write, nothing to do
