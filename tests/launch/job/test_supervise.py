"""The batch script's decisions that need no cluster: how ranks ended, and when the time is up."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.launch.cluster import Cluster
from pineco.launch.exits import BAD_INPUT, INTERRUPTED
from pineco.launch.job import supervise
from pineco.launch.job.rank import CRASHES, LEFT, PORT_TAKEN, read_left
from pineco.launch.job.supervise import CancelNotice, TimeLimit, classify
from pineco.launch.rundir.attempts import Attempt, Cause, read_attempts, write_attempt
from pineco.launch.rundir.spec import ID, JOB, Spec
from pineco.launch.submit import slurm
from tests.support.commands import command

main_run = command("train")

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


SAVED = Attempt(1, "7", 0.0, 0, 9.0, 5, "saved", 130)


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _answers(monkeypatch: pytest.MonkeyPatch, *, cancelled: bool) -> None:
    monkeypatch.setattr(slurm, "cancelled", lambda job, restarts: cancelled)


@pytest.mark.usefixtures("_signals")
def test_a_requeue_that_fails_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A controller that restarts in the second of a preemption would lose the run."""
    answers: list[Exception | None] = [InputError("scontrol: no answer"), None]
    _answers(monkeypatch, cancelled=False)

    def requeue(job: str) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    slept = list[float]()
    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(slurm, "restarts", lambda job: 0)
    monkeypatch.setattr(supervise.time, "sleep", slept.append)
    assert supervise._start_again(tmp_path, SAVED) == 1
    assert answers == []
    assert slept == [5, 60.0]


@pytest.mark.usefixtures("_signals")
def test_a_job_that_came_back_by_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """F8: the batch script of an attempt that was preempted would end the next one, and that the next, for ever."""
    asked, counts = list[str](), [0, 1]
    _answers(monkeypatch, cancelled=False)

    def requeue(job: str) -> None:
        asked.append(job)
        raise InputError("scontrol: no answer")

    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(slurm, "restarts", lambda job: counts.pop(0))
    monkeypatch.setattr(supervise.time, "sleep", lambda seconds: None)
    assert supervise._start_again(tmp_path, SAVED) == 1
    assert (asked, counts) == (["7"], [])


@pytest.mark.usefixtures("_signals")
def test_a_job_that_was_cancelled_is_not_requeued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """scancel sends what a preemption sends: the run would save, and come back each time that somebody cancels it."""
    (tmp_path / JOB).mkdir()
    write_attempt(tmp_path / JOB, SAVED)
    _answers(monkeypatch, cancelled=True)
    monkeypatch.setattr(slurm, "ask", lambda *words: pytest.fail(f"asked SLURM for {words}"))
    assert supervise._start_again(tmp_path, SAVED) == 0
    (kept,) = read_attempts(tmp_path / JOB)
    assert (kept.cause, kept.to_step, kept.ended) == ("cancelled", 5, 9.0)
    assert f"go on with: make resume RUN={tmp_path}" in capsys.readouterr().out


def test_a_cancelled_job_is_written_down_before_its_ranks_have_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SLURM kills the supervisor KillWait seconds later: the attempt would count as a fault of a node."""
    (tmp_path / JOB).mkdir()
    begun, signals, asked = Attempt(1, "7", 0.0, 0), list[int](), list[int]()
    answers: list[bool | Exception] = [False, InputError("scontrol: no answer"), True]

    def cancelled(job: str, restarts: int) -> bool:
        asked.append(restarts)
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(slurm, "cancelled", cancelled)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    notice = CancelNotice(tmp_path, begun, signals)
    notice.look()
    signals.append(signal.SIGUSR2)
    notice.look()
    assert not asked, "a warning is no cancellation"
    for _ in range(2):  # a preemption, then a controller that is silent
        signals.append(signal.SIGTERM)
        notice.look()
        notice.look()
    assert asked == [2, 2], "SLURM is asked at every look"
    assert not read_attempts(tmp_path / JOB)
    assert notice.said_of(SAVED) == SAVED
    signals.append(signal.SIGTERM)
    notice.look()
    assert [a.cause for a in read_attempts(tmp_path / JOB)] == ["cancelled"]
    assert notice.said_of(SAVED).cause == "cancelled"
    assert notice.said_of(replace(SAVED, cause="done")).cause == "done"


RECORD = """JobId=4 ArrayJobId=4 ArrayTaskId=1 JobName=x
   JobState={} Reason={} Dependency=(null)
   Requeue=1 Restarts={} BatchFlag=1 Reboot=0 ExitCode=0:0
   PreemptEligibleTime=2026-11-22T13:54:46 PreemptTime={}

JobId=5 ArrayJobId=4 ArrayTaskId=0 JobName=x
   JobState=CANCELLED Reason=None Dependency=(null)
"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("COMPLETING", "None", 1, "None"), True),  # the batch script is still there
        (("CANCELLED", "None", 1, "None"), True),
        (("COMPLETING", "None", 2, "2026-11-22T13:53:34"), False),  # preempted, back in the queue
        (("COMPLETING", "None", 2, "None"), False),  # put back by hand, or its node failed
        (("COMPLETING", "None", 1, "2026-11-22T13:53:34"), False),  # preempted where SLURM puts nothing back
        (("COMPLETING", "TimeLimit", 1, "None"), False),
        (("RUNNING", "None", 1, "None"), False),
        (("RUNNING", "None", 1, "2026-11-22T13:53:34"), False),  # preempted, in its time of grace
        (("PENDING", "BeginTime", 2, "None"), False),
    ],
)
def test_what_scontrol_says_of_a_job_that_was_cancelled(
    monkeypatch: pytest.MonkeyPatch, said: tuple[object, ...], expected: bool
) -> None:
    """F8, F9: a preempted run would not come back, or a cancelled one would; or that of another task of its array."""
    monkeypatch.setattr(slurm, "ask", lambda *_: RECORD.format(*said))
    assert slurm.cancelled("4_1", 1) is expected


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize(("known", "said"), [("7", "job 7 is the one of this run"), (None, "no job is the one")])
def test_a_job_that_is_not_the_one_of_its_run_touches_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: str | None, said: str
) -> None:
    """Of two jobs of one run, the one that is refused would delete the other's beats, and write its faults and attempts
    among the other's.
    """
    folder = tmp_path / JOB
    for name in ("beats", LEFT):
        (folder / name).mkdir(parents=True)
        (folder / name / "rank_00000").write_text("0")
    if known is not None:
        (folder / ID).write_text(f"{known}\n")
    monkeypatch.setattr(supervise, "_NUMBERED", 0.0)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(InputError, match=f"{said}.*, not job 8, which ends and leaves it alone"):
        supervise.main(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("job", ["8", "8_3"])
def test_a_job_waits_for_its_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, job: str) -> None:
    """A job that starts before its number is written, over that of the job before, would refuse its own run."""
    (tmp_path / JOB).mkdir()
    (tmp_path / JOB / ID).write_text("7\n")
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        (tmp_path / JOB / ID).write_text(f"{job}\n")

    monkeypatch.setattr(supervise.time, "sleep", sleep)
    supervise._wait_for_turn(tmp_path, job)
    assert len(slept) == 1


@pytest.mark.parametrize("stray", ["9.2", "7.1", ""])
def test_what_another_job_left_is_not_read(tmp_path: Path, stray: str) -> None:
    """F7: bad input of a rank of another job, or of an attempt on a node that was cut off, would give up this run."""
    folder, mine = tmp_path / JOB, Attempt(2, "7", 0.0, 0)
    for name in (LEFT, CRASHES):
        (folder / name).mkdir(parents=True)
    (folder / LEFT / "rank_00000").write_text(f"{BAD_INPUT} {stray}")
    (folder / LEFT / "rank_00001").write_text(f"{INTERRUPTED} 7.2")
    (folder / LEFT / "rank_00002").write_text("")  # its node failed while it wrote
    crash = {"rank": 0, "attempt": stray, "time": 1.0, "step": 7, "error": "KeyError: 1", "trace": []}
    (folder / CRASHES / "rank_00000.json").write_text(json.dumps(crash))
    assert read_left(folder, mine.key) == {1: INTERRUPTED}
    ended = supervise._end(tmp_path, mine, 137, None)
    assert (ended.cause, ended.crash) == ("saved", None)


def test_a_rank_says_of_which_attempt_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a rank left would count for no attempt, and a refused input be tried again and again."""
    attempt = Attempt(3, "8_3", 0.0, 0)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node1")
    monkeypatch.setattr(slurm, "ask", lambda *words: "node1\n")
    environment = supervise._environment(tmp_path, Spec(1, sys.executable, Cluster()), attempt)
    code = "import pathlib, sys; from pineco.launch.job.rank import _leave; _leave(pathlib.Path(sys.argv[1]), 2)"
    left = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment | {"RANK": "1", "PYTHONPATH": ""}
    )
    assert left.returncode == BAD_INPUT
    assert read_left(tmp_path, attempt.key) == {1: BAD_INPUT}
    assert read_left(tmp_path, "8_4.3") == {}


def test_a_job_says_how_to_go_on_in_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who copies the last line of the log after make stop would train on the login node."""
    stopped = SimpleNamespace(train=lambda *_, **__: "stopped at step 5 of 9 and is saved")
    monkeypatch.setitem(sys.modules, "pineco.launch.train.training", stopped)  # the real one imports torch
    assert main_run(["clip_toy", "--run-dir", str(tmp_path), "--resume", "--job"]) == INTERRUPTED
    told = capsys.readouterr().err
    assert told.endswith(f"go on with: make resume RUN={tmp_path}\n")
    assert "pineco train" not in told
    assert main_run(["clip_toy", "--run-dir", str(tmp_path), "--resume"]) == INTERRUPTED
    assert "train clip_toy --run-dir" in capsys.readouterr().err


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
