"""pineco stop RUN, pineco resume RUN: end a run on a cluster with a checkpoint, or submit it again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path
from pineco.launch.cluster import load_cluster
from pineco.launch.rundir.checkpoints import saved_steps
from pineco.launch.rundir.layout import INIT, JOB, RECIPE, STOP, published, report_of
from pineco.launch.rundir.spec import read_job, read_spec
from pineco.launch.submit import slurm
from pineco.launch.submit.submit import ALIVE, check_run, is_finished, submit
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe


def stop_main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pineco stop", description="Save a run on a cluster and end it.")
    parser.add_argument("run", type=user_path, help="run directory")
    print(stop(parser.parse_args(arguments).run))
    return 0


def resume_main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pineco resume", description="Submit a run again from its newest checkpoint.")
    parser.add_argument("run", type=user_path, help="run directory")
    parser.add_argument("--nodes", type=int, help="number of nodes (default: as many as before)")
    parser.add_argument("--cluster", help="another cluster than before")
    options = parser.parse_args(arguments)
    print(resume(options.run, options.nodes, options.cluster))
    return 0


def stop(run: Path) -> str:
    """Has a run save and end; one that still waits is taken out of the queue."""
    job, state = _job(run)
    if state not in ALIVE:
        raise InputError(f"{run}: its job {job} is {_known(state)}; there is nothing to stop")
    if read_job(run / INIT) is not None and _job(run / INIT)[1] in ALIVE:
        print(stop(run / INIT))
    (run / JOB / STOP).touch()
    if state == "PENDING":
        slurm.ask("scancel", job)
        return f"{run}: job {job} is out of the queue"
    slurm.signal_tasks(job, "USR2")
    return f"{run}: job {job} saves after its present step and ends; make status shows when"


def resume(run: Path, nodes: int | None, cluster: str | None) -> str:
    """Submits a run again with the recipe that it has, from its newest checkpoint; not one that is done."""
    job, state = _job(run)
    if state in ALIVE:
        raise InputError(f"{run}: its job {job} is {_known(state)}; stop it first with make stop RUN={run}")
    spec, recipe = read_spec(run), load_recipe(str(run / JOB / RECIPE))
    if is_finished(run) and _is_measured(run, recipe):
        return f"{run}: done already, all of its {saved_steps(run)} steps are taken; nothing was submitted"
    place, number = load_cluster(cluster) if cluster else spec.cluster, nodes or spec.nodes
    check_run(recipe, place, number)
    slurm.check_place(place, number)
    return f"{run}: submitted job {submit(recipe, run.resolve(), place, number)} on {number} nodes"


def _is_measured(run: Path, recipe: Recipe) -> bool:
    """Whether each checkpoint has the report that the recipe asks for; a new job would have missing ones made."""
    names = [path.name for path in published(run)]
    asked = bool(recipe.evaluation.tasks and recipe.evaluation.data)
    return not asked or all(report_of(run, name).is_file() for name in names)


def _job(run: Path) -> tuple[str, str | None]:
    job = read_job(run)
    if job is None:
        raise InputError(f"{run}: no run that was submitted; make status lists them")
    slurm.need_slurm()
    return job, slurm.job_state(job)


def _known(state: str | None) -> str:
    return "no longer known to SLURM" if state is None else state.lower()
