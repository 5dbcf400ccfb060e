"""What is checked, written and asked of SLURM before a run starts; no SLURM is needed here."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.launch.cluster import Cluster, load_cluster, minutes
from pineco.launch.job.rank import rank_environment
from pineco.launch.job.supervise import command as srun_command
from pineco.launch.rundir.spec import JOB, Spec, read_spec, write_spec
from pineco.launch.submit import slurm, submit
from pineco.launch.submit.exclusive import submitting
from pineco.launch.submit.slurm import check_nodes, check_place
from pineco.launch.submit.submit import check_run, parameters, write_job
from pineco.launch.submit.sweep import Sweep, combinations
from pineco.pretrain.recipe.load import load_recipe
from tests.support.commands import command

main = command("submit")


def test_the_batch_script_asks_for_what_the_cluster_file_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Jobs would start in the wrong partition, without GPUs, or not come back after a preemption."""
    words = ["clip_toy", "--nodes", "2", "--cluster", "virtual", "--dry-run", "--run-dir", str(tmp_path / "run")]
    assert main(words) == 0
    script = capsys.readouterr().out
    for line in ("--nodes=2", "--ntasks-per-node=1", "--partition=main", "--requeue", "--signal=USR2@30", "--time=30"):
        assert f"#SBATCH {line}\n" in script
    assert "export OMP_NUM_THREADS=1" in script
    assert f"export PYTHONPATH={tmp_path}/run/job/code" in script
    assert "srun" not in script
    assert not (tmp_path / "run").exists(), "a dry run writes nothing"


def test_what_a_cluster_asks_for_reaches_sbatch(tmp_path: Path) -> None:
    """An account or a memory limit that is left out rejects the job, or kills it later."""
    cluster = Cluster(account="lab", qos="high", memory="900G", reservation="r", exclude="node[3,7]", exclusive=True)
    found = parameters(tmp_path, cluster, 4, "x")
    assert found["additional_parameters"] | {"chdir": ""} == {
        "requeue": True, "chdir": "", "reservation": "r", "mem": "900G",
    }  # fmt: skip
    asked = {key: found[key] for key in ("account", "qos", "exclude", "exclusive", "gpus_per_node", "time", "nodes")}
    assert asked == {
        "account": "lab", "qos": "high", "exclude": "node[3,7]", "exclusive": True, "gpus_per_node": 8, "time": 1440,
        "nodes": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "NODES=0: at least 1"),
        (["--nodes", "3"], "pi_toy: a micro-batch of 64 cannot be shared by 3 ranks|a micro-batch of 128 cannot"),
        (["--nodes", "2", "--cluster", "virtul"], "no such cluster; did you mean virtual"),
        (["modle=x", "--nodes", "2"], "unknown key modle; did you mean model"),
    ],
)
def test_a_run_that_cannot_be_is_refused_here(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It would fail after hours in the queue."""
    cluster = [] if "--cluster" in words else ["--cluster", "virtual"]
    assert main(["clip_toy", *words, *cluster, "--run-dir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert told.startswith("pineco: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_slurm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop, people would meet a FileNotFoundError."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"no SLURM here .* NODES=0"):
        check_place(Cluster(), 2)


def test_the_folder_of_a_job_is_private_and_complete(tmp_path: Path) -> None:
    """Others could write what submitit unpickles; a job would run code that changed while it waited."""
    recipe, cluster = load_recipe("clip_toy", ["init=random"]), load_cluster("virtual")
    (tmp_path / "run" / JOB).mkdir(parents=True)
    (tmp_path / "run" / JOB / "stop").touch()
    with submitting(tmp_path / "run"):
        write_job(recipe, tmp_path / "run", cluster, 2)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert load_recipe(str(tmp_path / "run" / JOB / "recipe.yaml")) == recipe
    assert not (tmp_path / "run" / JOB / "stop").exists(), "a run that was stopped once would never start again"
    spec = read_spec(tmp_path / "run")
    assert (spec.nodes, spec.cluster, spec.ranks) == (2, cluster, 2)
    code = "import pineco.launch, pineco.evals.results.provenance as p; print(pineco.launch.__file__, p.commit())"
    folder = tmp_path / "run" / JOB / "code"
    said = subprocess.run(
        [spec.python, "-P", "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    ).stdout.split()
    assert said[0].startswith(str(folder))
    assert said[1] == (folder / "COMMIT").read_text().strip()


@pytest.mark.parametrize(
    "damage", ["", "{", '{"nodes": 2}', '{"nodes": 2, "python": "x", "cluster": {"partitoin": "x"}}']
)
def test_a_damaged_spec_is_named(tmp_path: Path, damage: str) -> None:
    """F10: a requeued job would end in a stack trace, night after night."""
    (tmp_path / JOB).mkdir()
    with pytest.raises(InputError, match=r"spec\.json: missing or damaged"):
        read_spec(tmp_path)
    (tmp_path / JOB / "spec.json").write_text(damage)
    with pytest.raises(InputError, match=r"spec\.json"):
        read_spec(tmp_path)


def test_ranks_are_started_so_that_one_failure_ends_all(tmp_path: Path) -> None:
    """One dead rank would leave the others waiting until the time limit."""
    spec = Spec(4, "python", Cluster(gpus_per_node=8, srun_args=["--container-image=x"]))
    (tmp_path / JOB).mkdir()
    write_spec(tmp_path, spec)
    assert read_spec(tmp_path) == spec
    words = srun_command(tmp_path, spec)
    for word in ("--kill-on-bad-exit=1", "--ntasks=32", "--ntasks-per-node=8", "--nodes=4", "--container-image=x"):
        assert word in words
    assert words[-5:] == ["python", "-P", "-m", "pineco.launch.job.rank", str(tmp_path)]
    slurm_task = {"SLURM_PROCID": "9", "SLURM_NTASKS": "32", "SLURM_LOCALID": "1"}
    assert rank_environment(slurm_task) == {"RANK": "9", "WORLD_SIZE": "32", "LOCAL_RANK": "1"}
    with pytest.raises(InputError, match="SLURM_PROCID is not set"):
        rank_environment({})


@pytest.mark.parametrize(("time", "expected"), [("24:00:00", 1440), ("1-12:00", 2160), ("0:00:30", 1), ("90:00", 5400)])
def test_times_are_slurms(time: str, expected: int) -> None:
    """A limit of hours would be taken for one of minutes."""
    assert minutes(time) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("infinite", None), ("1:00:00", 60), ("30:00", 30), ("2-00:00:00", 2880)]
)
def test_limits_of_partitions_are_slurms(limit: str, expected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job longer than its partition allows would wait for ever; sinfo has a line for each state of the nodes."""
    monkeypatch.setattr(slurm, "ask", lambda *words: f"gpu|gpu*|3|{limit}\ngpu|gpu*|1|{limit}\n")
    (found,) = slurm.partitions().values()
    assert (found.nodes, found.minutes, found.default) == (4, expected, True)


def test_resources_are_slurms() -> None:
    """GPUs would be counted by their type's name, or gigabytes taken for megabytes."""
    gres = ["(null)", "gpu:8", "gpu:h100:4(S:0-1),shard:16", "gpu:a100:2(S:0,2),gpu:v100:2(S:1)", "craynetwork:4"]
    assert [slurm._gpus(text) for text in gres] == [0, 8, 4, 4, 0]
    sizes = [None, "0", "4000", "4000M", "900G", "1.5T", "900GB", "2048K"]
    assert [slurm.memory_mib(size) for size in sizes] == [0, 0, 4000, 4000, 921600, 1572864, 921600, 2]
    with pytest.raises(InputError, match=r"memory is 'lots'; write it as SLURM does, e\.g\. 900G"):
        slurm.memory_mib("lots")


SMALL, LARGE = slurm.Node(8, 20_000, 0), slurm.Node(64, 500_000, 4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"cpus_per_task": 128}, "cpus_per_task is 128: .* 128 CPUs each, .* partition gpu have 8 to 64; set cpus_per"),
        ({"gpus_per_node": 4, "cpus_per_task": 32}, "cpus_per_task is 32 for each of 4 tasks: .* with 128 CPUs"),
        ({"gpus_per_node": 8}, "gpus_per_node is 8: .* with 8 GPUs each, .* have 0 to 4; set gpus_per_node to less"),
        ({"memory": "900G"}, "memory is 900G: .* with 921600 MiB each, .* have 20000 to 500000; set memory to less"),
        ({"gpus_per_node": 1}, None),
        ({"cpus_per_task": 8}, None),
    ],
)
def test_a_request_that_no_node_can_fill_is_refused(asked: dict[str, object], said: str | None) -> None:
    """sbatch takes it, and the job waits for ever; or sbatch's words do not say which key of the cluster file it is."""
    cluster = Cluster(**({"gpus_per_node": 0, "cpus_per_task": 1} | asked))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said) if said else nullcontext():
        check_nodes(cluster, 2, "gpu", [SMALL, LARGE, LARGE])


def test_enough_of_each_on_different_nodes_is_refused() -> None:
    """Half of the partition has the GPUs and the other half the memory: the job would wait for ever."""
    cluster = Cluster(gpus_per_node=4, cpus_per_task=1, memory="900G")
    with pytest.raises(InputError, match="has each on 1 nodes, but not all three on the same ones"):
        check_nodes(cluster, 1, "gpu", [LARGE, slurm.Node(64, 1_000_000, 0)])


def test_a_sweep_is_every_combination_once() -> None:
    """A run would be missing, or two would write one directory."""
    sweep = Sweep(
        recipe="clip_toy", overrides=["log_every=5"], grid={"init": ["random"], "seed": [1, 2], "optimizer.lr": [0.1]}
    )
    runs = combinations(sweep)
    assert list(runs) == ["init=random,seed=1,optimizer.lr=0.1", "init=random,seed=2,optimizer.lr=0.1"]
    assert [recipe.seed for recipe in runs.values()] == [1, 2]
    assert all(recipe.log_every == 5 for recipe in runs.values())
    with pytest.raises(InputError, match="two runs are called"):
        combinations(Sweep(recipe="clip_toy", grid={"seed": [1, 1]}))


def test_clusters_that_ship_are_valid() -> None:
    """CLUSTER=default would be refused; a value in a cluster file would be none of its keys."""
    for name in ("default", "virtual"):
        assert json.dumps(load_cluster(name).environment)
    check_run(load_recipe("clip_toy", []), load_cluster("virtual"), 2)


def test_a_run_that_is_alive_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second submission would replace the code below the running job; another recipe would fail after the queue."""
    recipe, cluster, run = load_recipe("clip_toy", ["init=random"]), load_cluster("virtual"), tmp_path / "run"
    with submitting(run):
        write_job(recipe, run, cluster, 2)
    (run / JOB / "id").write_text("7\n")
    (run / JOB / "code" / "mark").touch()
    monkeypatch.setattr(submit, "job_state", lambda job: "RUNNING")
    with pytest.raises(InputError, match="its job 7 is running; stop it first"):
        write_job(recipe, run, cluster, 2)
    assert (run / JOB / "code" / "mark").exists()
    monkeypatch.setattr(submit, "job_state", lambda job: "COMPLETED")
    (run / "recipe.yaml").write_text((run / JOB / "recipe.yaml").read_text())
    with pytest.raises(InputError, match=r"holds a run of another recipe \(seed is 7"):
        write_job(load_recipe("clip_toy", ["init=random", "seed=7"]), run, cluster, 2)
    write_job(recipe, run, cluster, 2)
    assert not (run / JOB / "code" / "mark").exists()
