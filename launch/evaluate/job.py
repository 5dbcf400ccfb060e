"""python -m pineco.launch.evaluate.job RUN STEP GROUP: measures one checkpoint on one group of its tasks.

The training job submits an array of them after each checkpoint, one a group, on a small allocation of their own, while
training goes on. What is measured already, or is being measured, is not begun again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.launch.cluster import Cluster
from pineco.launch.evaluate.after_checkpoint import Evaluator, is_measured, task_groups
from pineco.launch.exits import exit_code
from pineco.launch.rundir.spec import JOB, read_spec
from pineco.launch.submit import slurm
from pineco.launch.submit.submit import ALIVE, submit_scripts
from pineco.pretrain.checkpoint import Checkpoint, list_checkpoints
from pineco.pretrain.distributed import RankInfo, pick_device
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe

_FOLDER = "evaluations"  # of job/
logger = logging.getLogger("pineco.launch")


class EvaluationJobs:
    """A callable for every published checkpoint, as `after_checkpoint.Evaluator` is where there is no cluster."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._run, self._recipe = run, recipe
        self._cluster = evaluation_cluster(read_spec(run).cluster)

    def __call__(self, checkpoint: Checkpoint) -> None:
        """Submits a job; a failure is written down, and training goes on."""
        note = self._run / JOB / _FOLDER / f"{checkpoint.path.name}.json"
        try:
            if is_measured(self._run, self._recipe, checkpoint) or _is_at_work(note):
                return
            step, name = str(checkpoint.step), f"{self._recipe.name}-eval"
            modules = [
                ["pineco.launch.evaluate.job", str(self._run), step, group] for group in task_groups(self._recipe)
            ]
            with _outside_of_the_job():
                jobs = submit_scripts(self._run, self._cluster, 1, name, modules)
            note.parent.mkdir(exist_ok=True)
            write_text_atomically(note, json.dumps({"jobs": jobs, "step": checkpoint.step}) + "\n")
            logger.info("evaluation of step %d submitted as job %s", checkpoint.step, " ".join(jobs))
        except (InputError, OSError, ValueError, KeyError) as error:
            logger.error("evaluation of step %d not submitted: %s; training goes on", checkpoint.step, error)

    def catch_up(self, step: int) -> None:
        """Submits what an interrupted run had saved but not measured."""
        for checkpoint in list_checkpoints(self._run / "checkpoints"):
            if checkpoint.step <= step:
                self(checkpoint)


def _is_at_work(note: Path) -> bool:
    jobs = json.loads(note.read_text())["jobs"] if note.is_file() else []
    return any(slurm.job_state(job) in ALIVE for job in jobs)


def evaluation_cluster(cluster: Cluster) -> Cluster:
    """The place of an evaluation job, of one task."""
    jobs = cluster.evaluation
    return replace(
        cluster,
        partition=jobs.partition or cluster.partition,
        gpus_per_node=jobs.gpus,
        tasks_per_node=1,
        cpus_per_task=jobs.cpus,
        time=jobs.time,
        memory=None,
        exclusive=False,
    )


@contextmanager
def _outside_of_the_job() -> Iterator[None]:
    """A job that is submitted by a job must not take over its number, its nodes or its tasks."""
    before = {name: value for name, value in os.environ.items() if name.startswith("SLURM_") and name != "SLURM_CONF"}
    for name in before:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def main(arguments: list[str]) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    run, step, group = Path(arguments[0]), int(arguments[1]), arguments[2]
    recipe = load_recipe(str(run / "recipe.yaml"))
    found = [c for c in list_checkpoints(run / "checkpoints") if c.step == step]
    if not found:
        raise InputError(f"{run}: no checkpoint of step {step}; it may have been removed meanwhile")
    Evaluator(run, recipe, pick_device(recipe.engine.device, RankInfo())).measure_group(found[0], group)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
