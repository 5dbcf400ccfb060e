"""What is done after an attempt has ended: a pure function of the attempts, and the file that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pineco.launch.job.rank import lost_others
from pineco.launch.rundir.attempts import (
    STARTS_WITHOUT_PROGRESS,
    WITHOUT_PROGRESS,
    Attempt,
    Cause,
    decide,
    finished,
    read_attempts,
    write_attempt,
)


def attempt(cause: Cause, number: int = 1, *, saved: int = 0, crash: str | None = None) -> Attempt:
    """One that began with 10 steps saved, and saved so many more."""
    return Attempt(number, "7", 100.0 * number, 10, 100.0 * number + 50, 10 + saved, cause, 1, crash, cause)


@pytest.mark.parametrize(
    ("cause", "action"),
    [
        ("done", "end"),
        ("saved", "again"),
        ("bad input", "give up"),
        ("killed", "again"),
        ("hang", "again"),
        ("cancelled", "end"),
    ],
)
def test_one_end_one_action(cause: Cause, action: str) -> None:
    """A run that is done would start again, or one that was preempted would not."""
    assert decide([attempt(cause)], stop_asked=False).action == action


@pytest.mark.parametrize("cause", ["saved", "killed", "hang", "crash", "port"])
def test_who_was_asked_to_stop_stays_stopped(cause: Cause) -> None:
    """make stop would stop a run until the next start."""
    assert decide([attempt(cause)], stop_asked=True).action == "end"


def test_faults_without_progress_are_counted() -> None:
    """F12: a node that kills every attempt would use up the allocation; one fault in each hour must not."""
    stuck = [attempt("killed", n) for n in range(1, WITHOUT_PROGRESS + 1)]
    assert [decide(stuck[:n], stop_asked=False).action for n in range(1, len(stuck) + 1)] == [
        "again",
        "again",
        "give up",
    ]
    moving = [attempt("killed", n, saved=1) for n in range(1, 40)]
    assert decide(moving, stop_asked=False).action == "again"
    assert decide([*stuck[:2], attempt("killed", 3, saved=5), *stuck[:2]], stop_asked=False).action == "again"


def test_being_told_to_save_is_no_fault() -> None:
    """F9: a queue that preempts again and again would end the run; or a limit too short for a step never would."""
    told = [attempt("saved", n) for n in range(1, STARTS_WITHOUT_PROGRESS + 1)]
    assert decide(told[:-1], stop_asked=False).action == "again"
    assert decide(told, stop_asked=False).action == "give up"
    assert decide([*told[:-1], attempt("saved", 99, saved=1)], stop_asked=False).action == "again"
    mixed = [attempt("killed", 1), attempt("saved", 2), attempt("saved", 3), attempt("killed", 4)]
    assert decide(mixed, stop_asked=False).action == "again"
    resumed = [*(attempt("cancelled", n) for n in range(1, WITHOUT_PROGRESS + 1)), attempt("killed", 9)]
    assert decide(resumed, stop_asked=False).action == "again", "scancel and make resume, some times in a row"


def test_a_run_is_finished_while_its_steps_are_there() -> None:
    """A run whose checkpoints were removed could not be trained again; or one that is done would be submitted again."""
    done = [attempt("killed", 1), attempt("done", 2, saved=5)]
    assert finished(done, 15)
    assert not finished(done, 10)
    assert not finished(done[:1], 15)
    assert not finished([], 0)


def test_the_same_error_at_the_same_place_is_a_bug() -> None:
    """F11: a bug would be tried three times, at the cost of three starts of a thousand GPUs."""
    here, there = "rank 0 after step 7: KeyError\na.py:1 f", "rank 0 after step 9: KeyError\na.py:1 f"
    one, two = attempt("crash", 1, saved=5, crash=here), attempt("crash", 2, saved=5, crash=here)
    assert decide([one], stop_asked=False).action == "again"
    assert decide([one, two], stop_asked=False).action == "give up"
    assert decide([one, attempt("crash", 2, saved=5, crash=there)], stop_asked=False).action == "again"


def test_who_lost_a_connection_did_not_crash() -> None:
    """Every killed rank would look like an error of the others, twice the same, and end the run."""
    reset = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:5: Connection reset by peer"
    )
    assert lost_others(RuntimeError(reset))
    assert lost_others(type("DistBackendError", (RuntimeError,), {})("NCCL"))
    assert not lost_others(RuntimeError("shape mismatch"))
    assert not lost_others(KeyError("bug"))


def test_attempts_come_back_from_their_file(tmp_path: Path) -> None:
    """A restart would not know what was tried; a row cut by a full disk would hide those before and after it."""
    first, second = attempt("killed", 1), attempt("done", 2)
    write_attempt(tmp_path, Attempt(1, "7", 100.0, 10))
    write_attempt(tmp_path, first)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"number": 2, "jo')
    write_attempt(tmp_path, second)
    assert read_attempts(tmp_path) == [first, second]
    assert read_attempts(tmp_path / "none") == []
