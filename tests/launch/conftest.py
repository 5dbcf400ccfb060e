"""A virtual cluster and the undisturbed run, for everything that runs on SLURM."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pineco.launch.cluster import Cluster, load_cluster
from pineco.launch.rundir.attempts import read_attempts
from pineco.launch.rundir.layout import JOB
from pineco.launch.submit import submit
from pineco.launch.submit.slurm import ask
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from tests.support import slurm
from tests.support.ranks import TINY_CLIP
from tests.support.slurm_runs import STEPS, ended, said, wait


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two idle nodes, and how to use them."""
    if (why := slurm.missing()) is not None:
        pytest.skip(f"no SLURM here: {why}")
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield load_cluster("virtual", ["limits.step=12", "limits.save=30"])


@pytest.fixture(autouse=True)
def _no_job_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """A job of a test that failed would take the nodes of the next one."""
    yield
    if "cluster" in request.fixturenames:
        subprocess.run(["scancel", "--user=root"], check=False)
        wait(lambda: not ask("squeue", "--noheader", "--states=pending,running,completing").strip(), 60)


@pytest.fixture(scope="session")
def recipe(toy_world: Path) -> Recipe:
    """Trains in some seconds: a tiny model on a tiny world."""
    world = json.loads((toy_world / "world.json").read_text())["settings"]
    options = [
        f"model={TINY_CLIP}",
        f"toy_world.root={toy_world}",
        *(f"toy_world.settings.{key}={value}" for key, value in world.items()),
        *("data.batch_size=16", "data.lanes=8", "init=random", f"schedule.steps={STEPS}", "schedule.warmup=2"),
        *("checkpoint.every_epochs=null", "checkpoint.every_steps=5", "evaluation.tasks=null", "log_every=1"),
        "engine.device=cpu",
    ]
    return load_recipe("clip_toy", options)


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R0: what every other run must end as."""
    run = tmp_path_factory.mktemp("r0") / "run"
    job = submit.submit(recipe, run, cluster, 2)
    assert ended(job) == "COMPLETED", said(run)
    assert [a.cause for a in read_attempts(run / JOB)] == ["done"]
    return run
