"""make logs: what a run says, from its place in the queue to its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pineco.launch.rundir.attempts import Attempt, write_attempt
from pineco.launch.rundir.layout import JOB
from pineco.launch.rundir.lease import Lease
from pineco.launch.status import logs
from pineco.launch.status.logs import Follower, follow
from pineco.launch.submit import slurm, squeue
from tests.support.commands import command
from tests.support.run_directories import beats, make_job, make_run


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What SLURM says of jobs; a test changes it."""
    found: dict[str, str] = {}
    monkeypatch.setattr(squeue.shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm, "ask", lambda *_: "".join(f"{job}|{state}\n" for job, state in found.items()))
    return found


def append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def told(run: Path, *happens: Callable[[], object]) -> list[str]:
    """Every line of `follow`; what happens meanwhile comes one after the other, each before a question to SLURM."""
    said: list[str] = []
    script: Iterator[Callable[[], object]] = iter(happens)
    pauses = 0

    def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        assert pauses < 1000, "it goes on for ever"
        if pauses % logs._LOOKS == 1:
            next(script, lambda: None)()

    follow(run, said.append, pause)
    return "".join(said).splitlines()


def test_no_such_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt run would be waited for, for ever."""
    assert command("logs")([str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == f"pineco: {tmp_path}/x: no such run; make status lists those below runs/\n"


def test_a_chain_from_the_queue_to_its_end(tmp_path: Path, states: dict[str, str]) -> None:
    """A run that waits would only say that files are missing, and those of its stages and restarts be passed over."""
    run = make_job(tmp_path / "a", "9", "done")
    make_job(run / "init", "8")
    states |= {"8": "PENDING", "9": "PENDING"}
    first, second = run / "init" / JOB, run / JOB

    def first_starts() -> None:
        states["8"] = "RUNNING"
        append(first / "submitit" / "8_0_log.out", "supervisor of 8\n")

    def first_steps() -> None:
        beats(run / "init", "step")
        append(first / "logs" / "rank_00000.log", "first step\n")

    def back_in_the_queue() -> None:
        states["8"] = "PENDING"
        append(first / "submitit" / "8_0_log.out", "again\n")

    def first_ends() -> None:
        states["8"] = "COMPLETED"
        make_run(run / "init", step=40)
        append(first / "logs" / "rank_00000.log", "last words of the first\n")

    def second_ends() -> None:
        states["9"] = "COMPLETED"
        make_run(run, step=40)
        append(second / "submitit" / "9_0_log.out", "supervisor of 9\n")
        append(second / "logs" / "rank_00000.log", "cut off")

    assert told(run, first_starts, first_steps, back_in_the_queue, first_ends, second_ends) == [
        f"pineco: {run}, first stage: queued (job 8), waiting",
        f"==> {first}/submitit/8_0_log.out <==",
        "supervisor of 8",
        f"pineco: {run}, first stage: starting (8)",
        f"==> {first}/logs/rank_00000.log <==",
        "first step",
        f"pineco: {run}, first stage: running (8)",
        f"==> {first}/submitit/8_0_log.out <==",
        "again",
        f"pineco: {run}, first stage: queued (job 8), waiting",
        f"==> {first}/logs/rank_00000.log <==",
        "last words of the first",
        f"pineco: {run}: queued (job 9), waiting",
        f"==> {second}/submitit/9_0_log.out <==",
        "supervisor of 9",
        f"==> {second}/logs/rank_00000.log <==",
        "cut off",
        f"pineco: {run}: done (9)",
    ]


def test_a_run_that_ended_is_told_and_left(tmp_path: Path, states: dict[str, str]) -> None:
    """The last lines of a run that is over would be followed for ever, or all of its lines be printed."""
    run = make_job(make_run(tmp_path / "a", step=20), "8", "bad input")
    states["8"] = "FAILED"
    append(run / JOB / "submitit" / "8_0_log.out", "given up\n")
    append(run / JOB / "submitit" / "7_0_log.out", "an evaluation, or an earlier job\n")
    append(run / JOB / "logs" / "rank_00000.log", "".join(f"{line}\n" for line in range(1000)))
    lines = told(run)
    assert lines[:3] == [
        f"==> {run}/job/submitit/8_0_log.out <==",
        "given up",
        f"==> {run}/job/logs/rank_00000.log <==",
    ]
    assert lines[3:] == [*map(str, range(900, 1000)), f"pineco: {run}: given up (8)"]


def test_a_job_that_comes_back_is_waited_for(tmp_path: Path, states: dict[str, str]) -> None:
    """A job between its end and the queue would end the following; one of another number would not be followed."""
    run = make_job(make_run(tmp_path / "a", step=20), "8")
    states["8"] = "RUNNING"

    def resumed() -> None:
        (run / JOB / "id").write_text("12\n")
        write_attempt(run / JOB, Attempt(2, "12", 60.0, 20, 70.0, 40, "done"))
        states["12"] = "RUNNING"
        append(run / JOB / "submitit" / "12_0_log.out", "supervisor of 12\n")

    lines = told(run, lambda: states.update({"8": "NODE_FAIL"}), resumed, lambda: states.update({"12": "COMPLETED"}))
    assert lines == [
        f"pineco: {run}: starting (8)",
        f"pineco: {run}: node_fail (8)",
        f"==> {run}/job/submitit/12_0_log.out <==",
        "supervisor of 12",
        f"pineco: {run}: starting (12)",
        f"pineco: {run}: done (12)",
    ]


def test_a_run_of_a_sweep(tmp_path: Path, states: dict[str, str]) -> None:
    """Why a run of a sweep ended would not be shown: its supervisor writes beside the runs."""
    run = make_job(tmp_path / "sweep" / "seed=1", "30_2", "bad input")
    append(tmp_path / "sweep" / JOB / "30_2_0_log.out", "refused\n")
    append(tmp_path / "sweep" / JOB / "30_1_0_log.out", "another run\n")
    assert "refused" in (lines := told(run))
    assert "another run" not in lines


def test_files_that_are_cut_or_replaced(tmp_path: Path) -> None:
    """Lines would be lost, told twice, or told before they are whole."""
    path, follower = tmp_path / "log", Follower()

    def new() -> str:
        return "".join(text for _, text in follower.look([path]))

    assert new() == ""
    append(path, "one\ntw")
    assert (new(), new()) == ("one\n", "")
    append(path, "o\n\xff")
    assert new() == "two\n"
    path.write_text("cut\n")
    assert new() == "cut\n"
    append(tmp_path / "draft", "another file\n")
    (tmp_path / "draft").replace(path)
    assert new() == "another file\n"


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    """A run of this machine could not be followed, or Ctrl-C would leave a trace and an error."""
    run = make_run(tmp_path / "a", step=5)
    append(run / "run.log", "before\n")
    # A background job of a shell ignores SIGINT, and so does what it starts: tests may be such a job.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from pineco.launch import cli; "
    )
    command = [sys.executable, "-c", f"{code}sys.exit(cli.main(['logs', *sys.argv[1:]]))", str(run)]
    with (
        Lease(run, None),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        ExitStack() as always,
    ):
        always.callback(process.kill)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines == [f"==> {run}/run.log <==\n", "before\n", f"pineco: {run}: running here\n"]
        append(run / "run.log", "after\n")
        assert process.stdout.readline() == "after\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
        assert (process.returncode, error) == (0, "")
