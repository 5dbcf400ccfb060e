"""pineco submit RECIPE [key=value ...] --nodes N: one SLURM job that trains a recipe on every GPU of N nodes.

Everything is checked, planned and copied before anything is submitted: the recipe, the cluster, the code as it is now.
submitit writes the batch script and calls sbatch; the script runs `launch.job.supervise`, which starts one
process per rank.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path, write_text_atomically
from pineco.launch.cluster import Cluster, load_cluster
from pineco.launch.plan.model_size import NoEstimateError
from pineco.launch.plan.plan import plan, show
from pineco.launch.rundir.attempts import finished, read_attempts
from pineco.launch.rundir.checkpoints import newest_step, saved_steps
from pineco.launch.rundir.layout import CODE, ID, INIT, JOB, LOGS, RECIPE, STOP, SUBMITIT
from pineco.launch.rundir.spec import Spec, read_job, write_spec
from pineco.launch.submit.exclusive import submitting
from pineco.launch.submit.slurm import ask, check_place, complaints, job_state, need_slurm, release
from pineco.launch.submit.snapshot import copy_code
from pineco.pretrain.recipe.load import first_difference, load_init_recipe, load_recipe, recipe_yaml
from pineco.pretrain.recipe.settings import Recipe

ALIVE = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "CONFIGURING", "COMPLETING", "PREEMPTED")  # states of a job
BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    gpus = [] if options.gpus is None else [f"gpus_per_node={options.gpus}"]
    recipe, cluster = load_recipe(options.recipe, options.overrides), load_cluster(options.cluster, gpus)
    run = (options.run_dir or Path("runs") / recipe.name).resolve()
    check_run(recipe, cluster, options.nodes)
    if options.dry_run:
        print(script(run, cluster, options.nodes, recipe.name))
        return 0
    check_place(cluster, options.nodes)
    try:
        show(plan(recipe, cluster, options.nodes))
    except NoEstimateError as error:
        print(f"no estimate of memory, speed and cost, and nothing says that this fits: {error}")
    job = submit(recipe, run, cluster, options.nodes)
    print(f"submitted job {job}: {recipe.name} on {options.nodes} nodes, {run}")
    return 0


def check_run(recipe: Recipe, cluster: Cluster, nodes: int) -> None:
    """InputError where the ranks cannot share the recipe's batches."""
    if nodes < 1:
        raise InputError(f"NODES={nodes}: at least 1; NODES=0 runs here")
    ranks = nodes * cluster.tasks
    stages = [recipe]
    if needs_first_stage(recipe):
        stages.append(load_init_recipe(recipe))
    for stage in stages:
        micro = stage.data.batch_size // stage.data.accumulation
        if micro % ranks:
            raise InputError(
                f"{stage.name}: a micro-batch of {micro} cannot be shared by {ranks} ranks ({nodes} nodes of "
                f"{cluster.tasks}); change NODES, data.batch_size or data.accumulation"
            )


def submit(recipe: Recipe, run: Path, cluster: Cluster, nodes: int, *, hold: bool = False) -> str:
    """Writes RUN/job and submits; returns the job's number. A run that is there already goes on.

    A first stage is a job of its own, which this one waits for. hold: it may not start before it is released.
    """
    need_slurm()
    with submitting(run):
        check_free(recipe, run)  # before the first stage is submitted
        first = _submit_first(recipe, run, cluster, nodes)
        try:
            write_job(recipe, run, cluster, nodes)
            job = submit_script(run, cluster, nodes, recipe.name, _supervised(run), after=first, hold=hold)
        except InputError as error:
            raise error if first is None else _without_first(first, error) from None
        write_text_atomically(run / JOB / ID, f"{job}\n")
    if first is not None:
        _let_start(first)
    return job


def _submit_first(recipe: Recipe, run: Path, cluster: Cluster, nodes: int) -> str | None:
    """The number of the first stage's job, held until the second is accepted; None where none is needed."""
    if not needs_first_stage(recipe) or newest_step(run):
        return None
    first = load_init_recipe(recipe)
    check_free(first, run / INIT)
    return None if is_finished(run / INIT) else submit(first, run / INIT, cluster, nodes, hold=True)


def is_finished(run: Path) -> bool:
    """Whether a run on a cluster has ended, so that another job of it would do nothing."""
    return finished(read_attempts(run / JOB), saved_steps(run))


def _supervised(run: Path) -> list[str]:
    return ["pineco.launch.job.supervise", str(run)]


def _without_first(job: str, error: InputError) -> InputError:
    """What to say of a chain whose second job was refused; the first, which is still held, is taken back."""
    try:
        ask("scancel", job)
    except InputError as silent:
        return InputError(f"{error}; its first stage is held as job {job}, end it with scancel {job} ({silent})")
    return InputError(f"{error}; its first stage, job {job}, was taken out of the queue again")


def _let_start(job: str) -> None:
    try:
        release(job)
    except InputError as error:
        raise InputError(f"both stages are submitted, the first is held: scontrol release {job} ({error})") from None


def check_free(recipe: Recipe, run: Path) -> None:
    """InputError where a job of the run is alive, whose code would be replaced below it, or it has another recipe."""
    job = read_job(run)
    if job is not None and (state := job_state(job)) in ALIVE:
        raise InputError(f"{run}: its job {job} is {str(state).lower()}; stop it first with make stop RUN={run}")
    if (run / RECIPE).is_file() and (difference := first_difference(recipe, load_recipe(str(run / RECIPE)))):
        raise InputError(f"{run}: holds a run of another recipe ({difference}); pass --run-dir for a new one")


def needs_first_stage(recipe: Recipe) -> bool:
    return recipe.init != "random" and recipe.init_checkpoint is None


def submit_script(
    run: Path,
    cluster: Cluster,
    nodes: int,
    name: str,
    module: list[str],
    *,
    after: str | None = None,
    hold: bool = False,
) -> str:
    """One batch job that runs a module of the copied code, in the place of submitit's own process; its number.

    after: the number of a job that must have succeeded before. hold: it waits for `scontrol release`, too.
    """
    settings = parameters(run, cluster, nodes, name)
    if hold:
        settings["additional_parameters"]["hold"] = True
    if after is not None:
        settings["dependency"] = f"afterok:{after}"
        settings["additional_parameters"]["kill-on-invalid-dep"] = "yes"
    return _sbatch(run / JOB / SUBMITIT, settings, [module])[0]


def submit_scripts(
    run: Path,
    cluster: Cluster,
    nodes: int,
    name: str,
    modules: list[list[str]],
    *,
    at_once: int | None = None,
    folder: Path | None = None,
) -> list[str]:
    """The same for several modules, as one array of at most `at_once` at a time; the number of each task.

    folder: of submitit's files, where they are not one run's.
    """
    settings = {**parameters(run, cluster, nodes, name), "array_parallelism": at_once or len(modules)}
    return _sbatch(folder or run / JOB / SUBMITIT, settings, modules)


def _sbatch(folder: Path, settings: dict[str, Any], modules: list[list[str]]) -> list[str]:
    executor = submitit.SlurmExecutor(folder=folder, python=interpreter())
    executor.update_parameters(**settings)
    commands = [[sys.executable, "-P", "-m", *module] for module in modules]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            if len(commands) == 1:
                return [str(executor.submit(os.execv, sys.executable, commands[0]).job_id)]
            jobs: list[Any] = executor.map_array(os.execv, [sys.executable] * len(commands), commands)
    except submitit.core.utils.FailedJobError as error:
        said = "; ".join(complaints("sbatch", str(error))) or "no message"
        raise InputError(f"sbatch: {said}") from None
    return [str(job.job_id) for job in jobs]


def write_job(recipe: Recipe, run: Path, cluster: Cluster, nodes: int) -> None:
    """RUN/job: the recipe, the code and where it runs. Only inside of `submitting`, which made the directory."""
    check_free(recipe, run)
    folder = run / JOB
    (folder / LOGS).mkdir(exist_ok=True)
    (folder / STOP).unlink(missing_ok=True)
    copy_code(folder / CODE)
    write_text_atomically(folder / RECIPE, recipe_yaml(recipe))
    write_spec(run, Spec(nodes, sys.executable, cluster))


def parameters(run: Path, cluster: Cluster, nodes: int, name: str) -> dict[str, Any]:
    """What submitit writes into the batch script."""
    more: dict[str, Any] = {"requeue": True, "chdir": str(Path.cwd())}
    for key in ("reservation", "mem"):
        value = cluster.memory if key == "mem" else getattr(cluster, key)
        if value is not None:
            more[key] = value
    given = {
        "job_name": name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "time": cluster.minutes,
        "nodes": nodes,
        "ntasks_per_node": cluster.tasks,
        "cpus_per_task": cluster.cpus_per_task,
        "gpus_per_node": cluster.gpus_per_node or None,
        "exclusive": cluster.exclusive or None,
        "signal_delay_s": cluster.signal_delay,
        "stderr_to_stdout": True,
        "use_srun": False,  # pineco.launch.job.supervise does, with limits that submitit's own call lacks
        "setup": _setup(run, cluster),
        "additional_parameters": more,
    }
    return {key: value for key, value in given.items() if value is not None}


def script(run: Path, cluster: Cluster, nodes: int, name: str) -> str:
    """The batch script that would be submitted."""
    folder = run / JOB / SUBMITIT
    command = f"{interpreter()} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return str(_make_sbatch_string(command=command, folder=folder, **parameters(run, cluster, nodes, name)))


def _setup(run: Path, cluster: Cluster) -> list[str]:
    variables = {"PYTHONPATH": str(run / JOB / CODE), **cluster.environment}
    return [*(f"export {name}={shlex.quote(value)}" for name, value in variables.items()), *cluster.setup]


def interpreter() -> str:
    """What runs submitit in the batch script."""
    return f"{shlex.quote(sys.executable)} -P"  # -P: the copied code, not what lies in the working directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pineco submit",
        description="Train a recipe on a SLURM cluster.",
        epilog="pineco recipes lists the recipes.",
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. schedule.epochs=2 init=random")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, help="of a node, instead of the cluster's gpus_per_node")
    parser.add_argument("--cluster", default="default", help="of launch/clusters, or path of a YAML file")
    parser.add_argument(
        "--run-dir", type=user_path, help="where everything is written (default: runs/NAME of the recipe)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch script and stop")
    return parser
