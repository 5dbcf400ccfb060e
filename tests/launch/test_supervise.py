"""The batch script's decisions that need no cluster: how ranks ended, and when the time is up."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator

import pytest

from data_pipeline.errors import InputError
from launch import slurm, supervise
from launch.attempts import Cause
from launch.job import PORT_TAKEN
from launch.run import BAD_INPUT, INTERRUPTED
from launch.supervise import TimeLimit, classify

KILL, TERM, USR2 = (128 + number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2))


@pytest.mark.parametrize(
    ("code", "left", "cause"),
    [
        (0, [0, 0], "done"),
        (INTERRUPTED, [INTERRUPTED, INTERRUPTED], "saved"),
        (KILL, [INTERRUPTED], "saved"),  # srun ended the other on its way out
        (USR2, [], "saved"),  # before the interpreter could listen
        (KILL, [], "killed"),
        (TERM, [], "killed"),  # one was killed, and srun told the others
        (KILL, [PORT_TAKEN], "port"),
        (KILL, [BAD_INPUT], "bad input"),
        (1, [1, 1], "killed"),
    ],
)
def test_what_ended_the_ranks(code: int, left: list[int], cause: Cause) -> None:
    """F7, F12, F16: srun's code is the largest of all ranks; by it a preemption would be a fault, or the reverse."""
    assert classify(code, None, None, left)[0] == cause


def test_a_bug_and_a_hang_are_told_apart() -> None:
    """A hang or a kill would count as a bug, or a bug as bad luck."""
    assert classify(1, None, "KeyError after step 7", [1])[0] == "crash"
    assert classify(137, "rank 1 hangs", "RuntimeError after step 7", [])[0] == "hang"


def test_ranks_that_do_not_save_in_time_are_ended_before_slurm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """F9: a job that meets its limit is ended for good, and the run with it."""
    left, asked = [600.0, 500.0, 10.0], list[str]()

    def seconds_left(job: str) -> float:
        asked.append(job)
        return left.pop(0)

    monkeypatch.setattr(slurm, "seconds_left", seconds_left)
    limit = TimeLimit("7")
    assert limit.look(0) is None
    assert limit.look(580) is None
    assert asked == ["7"], "SLURM is asked at every look"
    assert limit.look(590) is None, "it was given more time"
    assert "time limit" in (limit.look(1080) or "")


def test_a_controller_that_is_silent_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy controller would cost a run of a thousand GPUs."""

    def silent(*_: str) -> float:
        raise InputError("squeue: no answer")

    monkeypatch.setattr(slurm, "seconds_left", silent)
    limit = TimeLimit("7")
    assert [limit.look(now) for now in (0, 59, 61, 1000)] == [None] * 4


@pytest.fixture
def _sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm")
def test_a_requeue_that_fails_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that restarts in the second of a preemption would lose the run."""
    answers: list[Exception | None] = [InputError("scontrol: no answer"), None]

    def requeue(job: str) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    slept = list[float]()
    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(slurm, "restarts", lambda job: 0)
    monkeypatch.setattr(supervise.time, "sleep", slept.append)
    assert supervise._start_again("7") == 1
    assert answers == []
    assert slept == [5, 60.0]


@pytest.mark.usefixtures("_sigterm")
def test_a_job_that_came_back_by_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """F8: the batch script of an attempt that was preempted would end the next one, and that the next, for ever."""
    asked, counts = list[str](), [0, 1]

    def requeue(job: str) -> None:
        asked.append(job)
        raise InputError("scontrol: no answer")

    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(slurm, "restarts", lambda job: counts.pop(0))
    monkeypatch.setattr(supervise.time, "sleep", lambda seconds: None)
    assert supervise._start_again("7") == 1
    assert (asked, counts) == (["7"], [])


def test_a_job_that_is_queued_already_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preemption that was faster than our own request would count as a controller that does not answer."""

    def ask(*words: str) -> str:
        raise InputError(f"scontrol: {'Job is pending execution for job 7' if words[1] == 'requeue' else words}")

    monkeypatch.setattr(slurm, "ask", ask)
    slurm.requeue("7")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("59", 59), ("1:30", 90), ("2:00:01", 7201), ("1-00:00:00", 86400), ("UNLIMITED", math.inf)],
)
def test_what_squeue_says_of_the_time_left(monkeypatch: pytest.MonkeyPatch, said: str, seconds: float) -> None:
    """Minutes would be taken for hours, and ranks ended a day early."""
    monkeypatch.setattr(slurm, "ask", lambda *_: f"{said}\n")
    assert slurm.seconds_left("7") == seconds


def test_a_task_of_an_array_speaks_for_itself() -> None:
    """The task whose number is the array's would end, signal or requeue all runs of a sweep."""
    assert slurm.own_job({"SLURM_JOB_ID": "8"}) == "8"
    task = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "5"}
    assert slurm.own_job(task) == "8_5"
