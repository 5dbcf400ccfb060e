"""make status: what the files of a run say, with and without a SLURM, on terminals of every size."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pineco.data_pipeline.errors import InputError
from pineco.launch.rundir.attempts import Attempt, Cause, write_attempt
from pineco.launch.rundir.heartbeat import Beat
from pineco.launch.rundir.layout import JOB, STOP
from pineco.launch.rundir.lease import Lease
from pineco.launch.status import command as status
from pineco.launch.status.figures import Status, look
from pineco.launch.status.state import State, present_stage
from pineco.launch.status.table import table
from pineco.launch.submit import slurm, squeue
from tests.support.commands import command
from tests.support.run_directories import beats, make_job, make_run

Says = Callable[..., None]


@pytest.fixture
def slurm_says(monkeypatch: pytest.MonkeyPatch) -> Says:
    """What SLURM knows of jobs, by number; it also refuses to be asked for a job at a time."""
    monkeypatch.setattr(squeue.shutil, "which", lambda name: name)

    def says(states: dict[str, str]) -> None:
        asked: list[str] = []

        def ask(*command: str) -> str:
            assert not asked, "SLURM was asked twice"
            numbers = next(word for word in command if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
            asked.extend(numbers)
            return "".join(f"{job}|{state}\n" for job, state in states.items() if job in numbers)

        monkeypatch.setattr(slurm, "ask", ask)

    return says


def test_a_run_of_this_machine(tmp_path: Path) -> None:
    """A row that is being written would hide the run, or its figures would be those of its first row."""
    run = make_run(tmp_path / "a", step=20, saved=10)
    (found,) = look([run])
    assert (found.step, found.steps, found.loss, found.saved, found.stage) == (20, 40, 1.5, 10, "main")
    assert (str(found.state), found.eta, found.samples_per_second) == ("not running", None, None)
    with Lease(run, None):
        (found,) = look([run])
        assert (str(found.state), found.eta, found.samples_per_second) == ("running here", 20 * 16 / 32, 32.0)
    assert str(look([run])[0].state) == "not running"
    assert str(look([make_run(tmp_path / "b", step=40)])[0].state) == "done"


def test_a_lease_tells_who_trains(tmp_path: Path, slurm_says: Says) -> None:
    """A run that trains without SLURM, here or elsewhere, would look idle, and one whose process died alive."""
    slurm_says({"12": "COMPLETED"})
    run = make_job(make_run(tmp_path / "a", step=20), "12", "saved")

    def shown(owner: str, age: float) -> str:
        (run / "lease.json").write_text(json.dumps({"token": 1, "owner": owner}))
        os.utime(run / "lease.json", (1000.0, 1000.0))
        slurm_says({"12": "COMPLETED"})
        return str(look([run], now=1000.0 + age)[0].state)

    here, gone = socket.gethostname(), 1 << 30
    assert shown(f"process {os.getpid()} on {here}", 5) == "running here"
    assert shown(f"process {gone} on {here}", 5) == "stopped (12)"
    assert shown("process 1 on another-host", 5) == "running on another-host"
    assert shown("process 1 on another-host", 61) == "stopped (12)"
    assert shown("job 12", 5) == "stopped (12)"
    (run / "lease.json").write_text("{")
    slurm_says({"12": "COMPLETED"})
    assert str(look([run])[0].state) == "lease.json is damaged (12)"


def test_a_run_of_a_cluster(tmp_path: Path, slurm_says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table would say nothing of restarts, or stop at the first job that SLURM has forgotten."""
    run = make_job(make_run(tmp_path / "a", step=20), "12", "killed")
    write_attempt(run / JOB, Attempt(2, "12", 60.0, 10))
    for state, shown in (("RUNNING", "starting (12)"), ("PENDING", "pending (12)"), (None, "gone (12)")):
        slurm_says({"12": state} if state else {})
        (found,) = look([run], now=100.0)
        assert (str(found.state), found.starts, found.goodput, found.eta) == (shown, 2, None, None)
    beats(run, "step")
    slurm_says({"12": "RUNNING"})
    (found,) = look([run], now=100.0)
    assert (str(found.state), found.eta) == ("running (12)", 10.0)

    def silent(*command: str) -> str:
        raise InputError("squeue: no controller")

    monkeypatch.setattr(slurm, "ask", silent)
    assert str(look([run], now=100.0)[0].state) == "SLURM is silent (12)"
    monkeypatch.setattr(squeue.shutil, "which", lambda name: None)
    assert str(look([run], now=100.0)[0].state) == "no SLURM here (12)"


@pytest.mark.parametrize(
    ("state", "cause", "step", "shown"),
    [
        ("COMPLETED", "done", 40, "done (8)"),
        ("COMPLETED", "saved", 20, "stopped (8)"),
        ("COMPLETED", "cancelled", 20, "cancelled (8)"),
        ("FAILED", "bad input", 20, "given up (8)"),
        ("FAILED", "killed", 20, "failed (8)"),
        ("TIMEOUT", None, 20, "timeout (8)"),
        (None, "saved", 20, "stopped (8)"),
        (None, "bad input", 20, "given up (8)"),
        (None, "done", 40, "done (8)"),
        ("RUNNING", "done", 40, "running (8)"),
        ("PENDING", "bad input", 20, "pending (8)"),
    ],
)
def test_how_a_run_ended(
    tmp_path: Path, slurm_says: Says, state: str | None, cause: Cause | None, step: int, shown: str
) -> None:
    """A run that was stopped at step 20 of 40, or given up, would look like one that is done."""
    run = make_job(make_run(tmp_path / "a", step=step), "8", cause)
    beats(run, "end")
    if shown.startswith("stopped"):
        (run / JOB / STOP).touch()
    slurm_says({"8": state} if state else {})
    (found,) = look([run], now=100.0)
    assert str(found.state) == shown
    assert (found.eta is None, found.samples_per_second is None) == (state != "RUNNING",) * 2


def test_an_earlier_job_says_nothing_of_this_one(tmp_path: Path, slurm_says: Says) -> None:
    """A run that was given up, resumed and cancelled in the queue would read "given up"."""
    run = make_job(make_run(tmp_path / "a", step=20), "8", "bad input")
    (run / JOB / "id").write_text("9\n")
    slurm_says({"9": "CANCELLED"})
    assert str(look([run])[0].state) == "cancelled (9)"
    (run / JOB / STOP).touch()
    slurm_says({"9": "CANCELLED"})
    assert str(look([run])[0].state) == "stopped (9)"


def test_goodput_of_a_lost_run_ends_with_its_last_sign_of_life(tmp_path: Path, slurm_says: Says) -> None:
    """The share would sink for ever while nothing runs."""
    run = make_job(make_run(tmp_path / "a", step=20), "8")
    rows = [Beat("start", 0, 10.0, 1), Beat("step", 1, 50.0, 1)]
    (run / JOB / "phases.jsonl").write_text("".join(json.dumps(vars(row)) + "\n" for row in rows))
    beats(run, "step")
    slurm_says({})
    assert look([run], now=1e6)[0].goodput == pytest.approx(40 / 90)
    slurm_says({"8": "RUNNING"})
    assert look([run], now=100.0)[0].goodput == pytest.approx(50 / 100)


def test_a_chain_shows_the_stage_that_runs(tmp_path: Path, slurm_says: Says) -> None:
    """The second job's state would stand beside the first job's step, or a run would seem idle for its first hour."""
    run = make_job(tmp_path / "a", "9")
    (run / JOB / "attempts.jsonl").unlink()
    make_job(make_run(run / "init", step=5), "8")
    beats(run / "init", "step")
    assert status.find_runs(tmp_path) == [run]
    jobs = {"8": "RUNNING", "9": "PENDING"}

    def row() -> tuple[str, str, int, int]:
        slurm_says(jobs)
        (found,) = look([run])
        return found.stage, str(found.state), found.step, found.saved

    assert row() == ("first", "running (8)", 5, 5)
    make_run(run / "init", step=40, saved=39)
    assert row() == ("first", "running (8)", 40, 39), "its last step is not saved yet"
    (run / "init" / "checkpoints" / "step_00000040").mkdir()
    (run / "init" / "checkpoints" / "step_00000040" / "manifest.json").touch()
    assert row() == ("main", "pending (9)", 0, 0)
    jobs = {"8": "COMPLETED", "9": "RUNNING"}
    assert row() == ("main", "starting (9)", 0, 0)
    make_run(run, step=7)
    beats(run, "step")
    assert row() == ("main", "running (9)", 7, 7)


def test_a_first_stage_in_the_job_of_its_run(tmp_path: Path, slurm_says: Says) -> None:
    """A run of a sweep, which trains both stages in one job, would have no state during the first."""
    run = make_job(tmp_path / "a", "30_2")
    make_run(run / "init", step=5)
    beats(run, "step")
    slurm_says({"30_2": "RUNNING"})
    (found,) = look([run])
    assert (found.stage, str(found.state), found.step, found.starts) == ("first", "running (30_2)", 5, 1)
    assert present_stage(run).owner == run


def test_evaluations_that_wait(tmp_path: Path, slurm_says: Says) -> None:
    """Evaluations in the queue would be invisible; those that are reported, or another run's, would be counted."""
    run = make_job(make_run(tmp_path / "a", step=30), "8")
    (run / "reports").mkdir()
    (run / "reports" / "step_00000020.json").touch()
    (run / JOB / "evaluations").mkdir()
    for step, jobs in ((20, ["9"]), (30, ["10_0", "10_1", "10_2", "10_3"])):
        note = {"jobs": jobs, "step": step}
        (run / JOB / "evaluations" / f"step_{step:08}.json").write_text(json.dumps(note))
    states = {"9": "RUNNING", "10_0": "RUNNING", "10_1": "PENDING", "10_2": "PENDING", "10_3": "COMPLETED"}
    slurm_says({"8": "RUNNING", **states, "11": "PENDING"})
    assert look([run])[0].evaluated == "step 20, 1 running, 2 queued"
    slurm_says({"8": "RUNNING"})
    assert look([run])[0].evaluated == "step 20"


def test_no_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt folder or run would show an empty table, or a row of nothing."""
    assert command("status")(["--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"pineco: {tmp_path}: no runs here; start one with make pretrain\n"
    assert command("status")([str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == f"pineco: {tmp_path}/x: no such run; make status lists those below runs/\n"


def test_folders_of_a_run_are_not_searched(tmp_path: Path) -> None:
    """A first stage, or the recipe of a job, would be a row of its own; a run below a run would be none."""
    make_job(make_run(tmp_path / "a", step=5), "1")
    (tmp_path / "a" / JOB / "recipe.yaml").touch()
    make_run(tmp_path / "a" / "init", step=5)
    make_run(tmp_path / "a" / "again", step=5)
    assert status.find_runs(tmp_path) == [tmp_path / "a", tmp_path / "a" / "again"]


# --- the table ----------------------------------------------------------------------------------------------------


def a_status(run: str, word: str = "running", job: str = "18", **more: object) -> Status:
    kind = {"running": "running", "pending": "waiting"}.get(word, "ended")
    fields = {
        "stage": "main", "step": 1200, "steps": 40000, "samples_per_second": 18231.0, "eta": 86399.0, "loss": 4.1234,
        "evaluated": "step 1000, 2 queued", "saved": 1000, "starts": 3, "goodput": 0.913,
    }  # fmt: skip
    return Status(Path(run), State(word, job, kind), **{**fields, **more})  # type: ignore[arg-type]


def printed(statuses: list[Status], width: int, height: int | None = None) -> list[str]:
    """Lines on a terminal, which must neither wrap nor shorten anything itself."""
    screen = io.StringIO()
    console = Console(file=screen, width=width, height=height or 25, force_terminal=True, color_system=None)
    console.print(table(statuses, console.width, None if height is None else console.height - 1))
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    return lines


def test_the_table_fits_eighty_columns() -> None:
    """Every cell would be cut to a letter and dots on the usual terminal."""
    header, row = printed([a_status("runs/clip_vitb32")], 80)
    assert header.split() == ["run", "state", "step", "samples/s", "ETA", "loss", "saved"]
    assert row.split() == ["runs/clip_vitb32", "running", "(18)", "1200/40000", "18231", "23:59:59", "4.1234", "1000"]


def test_the_first_stage_is_named_where_there_is_one() -> None:
    """The step of a first stage would be taken for that of the second."""
    header, row = printed([a_status("runs/clip_vitb32", stage="first")], 80)
    assert header.split()[:4] == ["run", "state", "stage", "step"]
    assert row.split()[3:5] == ["first", "1200/40000"]


def test_a_wide_terminal_and_a_file_have_every_column() -> None:
    """Columns would be dropped where there is room, or names be cut in a file."""
    columns = ["run", "state", "stage", "step", "samples/s", "ETA", "loss", "evaluated", "saved", "starts", "goodput"]
    assert printed([a_status("runs/clip_vitb32")], 140)[0].split() == columns
    screen, name = io.StringIO(), "runs/" + 300 * "x"
    Console(file=screen, width=status._WIDE).print(table([a_status(name)]))
    header, row = screen.getvalue().splitlines()
    assert header.split() == columns
    assert row.split()[0] == name


@pytest.mark.parametrize("width", [60, 80, 140])
def test_long_names_are_shortened_in_the_middle_and_stay_apart(width: int) -> None:
    """Two runs of a sweep would look the same, or their state or step be cut."""
    grid = [f"runs/pi_controls/init={init},optimizer.lr={lr},model.width=512,seed=42" for init in "ab" for lr in "12"]
    header, *rows = printed([a_status(name) for name in grid], width)
    names = [row.split()[0] for row in rows]
    assert header.split()[:2] == ["run", "state"]
    assert len(set(names)) == 4
    assert all("running (18)" in row and "1200/40000" in row for row in rows)
    assert all(name.endswith("seed=42") for name in names)
    assert [name.index("…") > 0 for name in names if "…" in name] == [True] * (4 if width < 140 else 0)


def test_columns_that_say_nothing_give_way() -> None:
    """Empty columns of runs that have ended would take the room of those that say something."""
    over: dict[str, Any] = {"eta": None, "samples_per_second": None}
    header = printed([a_status("runs/clip_vitb32", "done", **over)], 80)[0].split()
    assert header == ["run", "state", "step", "loss", "evaluated", "saved"]


def test_room_that_is_left_goes_to_the_names() -> None:
    """A name would be shortened beside empty room."""
    nothing: dict[str, Any] = {
        "step": 0,
        "steps": None,
        "eta": None,
        "samples_per_second": None,
        "loss": None,
        "evaluated": "",
    }
    name = "runs/" + 40 * "x"
    assert printed([a_status(name, "pending", saved=0, goodput=None, starts=0, **nothing)], 80)[1].split()[0] == name


def test_a_small_window_shows_what_runs() -> None:
    """The runs that matter would be below the edge of the window, without a word of it."""
    words = ["done", "done", "pending", "done", "running", "stopped", "done", "running"]
    lines = printed([a_status(f"runs/{number}", word) for number, word in enumerate(words)], 80, 8)
    assert len(lines) == 7, "a line is left for the cursor"
    assert [line.split()[0] for line in lines] == ["run", "runs/4", "runs/7", "runs/2", "runs/0", "runs/1", "3"]
    assert lines[-1] == "3 more"
    assert len(printed([a_status(f"runs/{number}") for number in range(6)], 80, 8)) == 7, "all six fit"


def test_no_run_is_left() -> None:
    """make status ARGS=--watch would end with a trace where the last run is removed meanwhile."""
    assert printed([], 80, 8)[0].split()[:2] == ["run", "state"]


def test_a_name_is_not_markup() -> None:
    """A run called [red] would lose its name."""
    assert printed([a_status("runs/[red]")], 80)[1].startswith("runs/[red]")
