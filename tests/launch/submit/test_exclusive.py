"""What a submission leaves behind, and two of them at once; SLURM's commands are scripts that note what is asked."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.launch.cluster import load_cluster
from pineco.launch.rundir.attempts import Attempt, write_attempt
from pineco.launch.rundir.spec import ID, JOB, RECIPE, read_job
from pineco.launch.submit import submit
from pineco.launch.submit.exclusive import LOCK, submitting
from pineco.launch.submit.sweep import submit_array
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from tests.support.commands import command

ROOT = Path(__file__).parents[3]
SINFO = 'case "$*" in *--Node*) echo "8|20000|(null)"; echo "8|20000|(null)";; *) echo "main|main*|2|infinite";; esac'
REFUSE = 'echo "sbatch: error: Too much memory" >&2; echo "sbatch: error: Batch job submission failed: No" >&2; exit 1'
WAIT = 60  # seconds


@dataclass(frozen=True)
class Fake:
    """Commands of a SLURM that answers what a test says."""

    folder: Path

    def answer(self, name: str, body: str) -> None:
        """body: lines of sh; the arguments are noted before."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\ncd {self.folder}\necho "{name} $*" >> asked\n{body}\n')
        path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.is_file() else []

    def commands(self) -> list[str]:
        return [line.split()[0] for line in self.asked]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake(tmp_path / "bin")
    fake.folder.mkdir()
    answers = {"sinfo": SINFO, "sbatch": "echo Submitted batch job 7", "squeue": "echo COMPLETED", "srun": "exit 1"}
    for name, body in (answers | {"scancel": "", "scontrol": ""}).items():
        fake.answer(name, body)
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("clip_toy", ["init=random"])


def words(run: Path, *more: str) -> list[str]:
    return ["clip_toy", *more, "--nodes", "2", "--cluster", "virtual", "--run-dir", str(run)]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_of_two_submissions_at_once_one_is_refused(slurm: Fake, tmp_path: Path) -> None:
    """Both copy the code over each other's, both jobs start, and each counts the other's faults as its own."""
    run = tmp_path / "run"
    slurm.answer("sbatch", "while [ ! -e go ]; do sleep 0.05; done; echo Submitted batch job 7")
    command = [sys.executable, "-m", "pineco", "submit", *words(run, "init=random")]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    until(lambda: any(process.poll() is not None for process in both))  # the other is inside of sbatch until `go`
    lost, won = sorted(both, key=lambda process: process.poll() is None)
    (slurm.folder / "go").touch()
    errors, said = lost.communicate()[1], won.communicate(timeout=WAIT)
    assert (lost.returncode, won.returncode) == (2, 0), (errors, said)
    assert errors.startswith(f"pineco: {run}: process {won.pid} on ")
    assert "is submitting it at this moment" in errors
    assert errors.count("\n") == 1, errors
    assert slurm.commands().count("sbatch") == 1
    assert read_job(run) == "7"


def test_a_dead_submission_holds_nothing(tmp_path: Path) -> None:
    """A login node that restarts would leave a run that nobody can submit any more."""
    code = "import pathlib, sys, time; from pineco.launch.submit.exclusive import submitting\n"
    code += "with submitting(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on .* is submitting"), submitting(tmp_path / "run"):
            pytest.fail("it was taken twice")
        holder.send_signal(signal.SIGKILL)
    with submitting(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / JOB / LOCK).read_text()


def test_what_cannot_run_is_refused_before_the_plan(
    slurm: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of plan would stand above the one line that matters, or the job would wait for GPUs that are not there."""
    assert command("submit")([*words(tmp_path / "run", "init=random"), "--gpus", "8"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("pineco: gpus_per_node is 8: ")
    assert "those of partition main have 0; set gpus_per_node to less" in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert "sbatch" not in slurm.commands()


def test_what_sbatch_refuses_leaves_nothing(slurm: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without a run would stand in every table; sbatch's words would come twice, with three prefixes."""
    slurm.answer("sbatch", REFUSE)
    assert command("submit")(words(tmp_path / "run", "init=random")) == 2
    assert capsys.readouterr().err == "pineco: sbatch: Too much memory; Batch job submission failed: No\n"
    assert not (tmp_path / "run").exists()


def test_what_was_there_before_a_refusal_stays(slurm: Fake, tmp_path: Path, recipe: Recipe) -> None:
    """The checkpoints of a run would go when its next job is refused."""
    kept = tmp_path / "run" / "checkpoints" / "step_00000005" / "manifest.json"
    kept.parent.mkdir(parents=True)
    kept.touch()
    slurm.answer("sbatch", REFUSE)
    with pytest.raises(InputError, match="sbatch: Too much memory"):
        submit.submit(recipe, tmp_path / "run", load_cluster("virtual"), 2)
    assert kept.exists()


def test_a_first_stage_waits_for_the_second_to_be_accepted(slurm: Fake, tmp_path: Path) -> None:
    """It would start, and be cancelled in its first minute, where SLURM refuses the second."""
    slurm.answer("sbatch", 'echo x >> n; cp "$1" script$(wc -l < n); echo Submitted batch job $(($(wc -l < n) + 6))')
    run = tmp_path / "run"
    assert submit.submit(load_recipe("clip_toy", []), run, load_cluster("virtual"), 2) == "8"
    assert (read_job(run / "init"), read_job(run)) == ("7", "8")
    first, second = ((slurm.folder / f"script{number}").read_text() for number in (1, 2))
    assert "#SBATCH --hold\n" in first
    assert "#SBATCH --hold\n" not in second
    assert "#SBATCH --dependency=afterok:7\n" in second
    assert [line for line in slurm.asked if line.startswith("scontrol")] == ["scontrol release 7"]
    assert slurm.commands()[-1] == "scontrol"


def test_a_first_stage_whose_second_is_refused_is_taken_back(slurm: Fake, tmp_path: Path) -> None:
    """It would train for days, and nothing would follow."""
    slurm.answer("sbatch", f"if [ -e n ]; then {REFUSE}; fi; touch n; echo Submitted batch job 7")
    with pytest.raises(InputError, match=r"failed: No; its first stage, job 7, was taken out of the queue again"):
        submit.submit(load_recipe("clip_toy", []), tmp_path / "run", load_cluster("virtual"), 2)
    assert slurm.asked[-1] == "scancel 7"
    assert "scontrol" not in slurm.commands()
    assert not (tmp_path / "run").exists()


@pytest.fixture
def _lax_umask() -> object:
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_lax_umask")
def test_the_folder_of_a_sweep_is_private(slurm: Fake, tmp_path: Path, recipe: Recipe) -> None:
    """A colleague could write what the jobs of the array unpickle, and so run code as their owner."""
    root = tmp_path / "runs" / "six"
    runs = {f"seed={seed}": recipe for seed in (1, 2)}
    assert submit_array(root, runs, load_cluster("virtual"), 2, 2) == "7"
    assert list((root / JOB).glob("*.pkl")), "it looks at the wrong folder"
    for folder in (root, root / JOB, *(root / name for name in runs), *(root / name / JOB for name in runs)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    assert [read_job(root / name) for name in runs] == ["7_0", "7_1"]


def test_a_sweep_that_is_refused_leaves_nothing(slurm: Fake, tmp_path: Path, recipe: Recipe) -> None:
    """Its runs would stand in every table as runs that were never started."""
    slurm.answer("sbatch", REFUSE)
    with pytest.raises(InputError, match="Too much memory"):
        submit_array(tmp_path / "six", {f"seed={seed}": recipe for seed in (1, 2)}, load_cluster("virtual"), 2, 2)
    assert not (tmp_path / "six").exists()


@pytest.mark.parametrize("missing", [False, True])
def test_a_finished_run_is_not_submitted_again(
    slurm: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: bool
) -> None:
    """A job would wait, do nothing, and spoil the goodput; but one whose evaluation failed must be able to catch up."""
    run, recipe = tmp_path / "run", load_recipe("clip_toy", ["init=random", f"evaluation.data={tmp_path}"])
    with submitting(run):
        submit.write_job(recipe, run, load_cluster("virtual"), 2)
    (run / JOB / ID).write_text("6\n")
    (run / RECIPE).write_text((run / JOB / RECIPE).read_text())
    write_attempt(run / JOB, Attempt(1, "6", 0.0, 0, 9.0, 5, "done", 0))
    for path in (run / "checkpoints" / "step_00000005" / "manifest.json", run / "reports" / "step_00000005.json"):
        path.parent.mkdir(parents=True)
        path.touch()
    if missing:
        (run / "reports" / "step_00000005.json").unlink()
    assert command("resume")([str(run)]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert ("submitted job 7" if missing else f"{run}: done already, all of its 5 steps are taken") in said
    assert slurm.commands().count("sbatch") == missing
