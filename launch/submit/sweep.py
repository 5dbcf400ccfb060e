"""pineco sweep FILE: a SLURM array of runs, one for every combination of some settings of a recipe.

    recipe: clip_vitb32_yfcc15m
    nodes: 8                            # of each run
    overrides: [schedule.epochs=8]      # of all runs
    grid: {init: [perceptual, random], seed: [42, 43, 44]}

Each run has a directory of its own, ROOT/FILE/init=random,seed=42; make status ARGS="--root ROOT/FILE" is their table.
"""

from __future__ import annotations

import argparse
import itertools
import re
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path, write_text_atomically
from pineco.launch.cluster import Cluster, cluster_names, load_cluster
from pineco.launch.rundir.layout import ID, JOB
from pineco.launch.submit.exclusive import submitting
from pineco.launch.submit.slurm import ask, check_place
from pineco.launch.submit.submit import check_run, submit_scripts, write_job
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from pineco.pretrain.recipe.typed_yaml import merge, read_layer

LARGEST = 1000  # runs
_OTHERS = 256  # open files besides the locks


@dataclass(frozen=True, kw_only=True)
class Sweep:
    recipe: str = "???"
    nodes: int = 1
    overrides: list[str] = field(default_factory=list)
    grid: dict[str, list[Any]] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="pineco sweep", description="Submit an array of runs, one per combination of settings."
    )
    parser.add_argument("sweep", type=user_path, help="YAML file, see sweeps/")
    parser.add_argument("--cluster", default="default", help=f"{', '.join(cluster_names())}, or path of a YAML file")
    parser.add_argument("--root", type=user_path, default=Path("runs"), help="below which the runs are written")
    parser.add_argument("--at-once", type=int, default=256, help="runs that may run at the same time")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    options = parser.parse_args(arguments)
    sweep, cluster = load_sweep(options.sweep), load_cluster(options.cluster)
    runs = combinations(sweep)
    for recipe in runs.values():
        check_run(recipe, cluster, sweep.nodes)
    root = (options.root / options.sweep.stem).resolve()
    if options.dry_run:
        print("\n".join(f"{root / name}" for name in runs))
        return 0
    check_place(cluster, sweep.nodes)
    job = submit_array(root, runs, cluster, sweep.nodes, options.at_once)
    print(f"submitted array {job}: {len(runs)} runs below {root}; make status ARGS='--root {root}' shows them")
    return 0


def load_sweep(path: Path) -> Sweep:
    sweep = merge(str(path), OmegaConf.structured(Sweep), [read_layer(path)])
    assert isinstance(sweep, Sweep)
    number = len(list(itertools.product(*sweep.grid.values())))
    if not sweep.grid or not 1 <= number <= LARGEST:
        raise InputError(f"{path}: grid has {number} combinations; name settings and their values, {LARGEST} at most")
    return sweep


def combinations(sweep: Sweep) -> dict[str, Recipe]:
    """Recipe by name of the run: the values of the grid in its order, the last setting fastest."""
    found: dict[str, Recipe] = {}
    for values in itertools.product(*sweep.grid.values()):
        words = [f"{key}={value}" for key, value in zip(sweep.grid, values, strict=True)]
        name = re.sub(r"[^\w=.,-]+", "_", ",".join(words))
        if name in found:
            raise InputError(f"sweep: two runs are called {name}; give each value once")
        found[name] = load_recipe(sweep.recipe, [*sweep.overrides, *words])
    return found


def submit_array(root: Path, runs: dict[str, Recipe], cluster: Cluster, nodes: int, at_once: int) -> str:
    """One array, a task for each run; returns its number. Runs that are there already go on."""
    _allow_open_files(len(runs) + _OTHERS)
    with ExitStack() as stack:
        stack.enter_context(submitting(root))
        for name, recipe in runs.items():
            stack.enter_context(submitting(root / name))
            write_job(recipe, root / name, cluster, nodes)
        first = root / next(iter(runs))
        modules = [["pineco.launch.job.supervise", str(root / name)] for name in runs]
        jobs = submit_scripts(first, cluster, nodes, root.name, modules, at_once=at_once, folder=root / JOB)
        for name, job in zip(runs, jobs, strict=True):
            write_text_atomically(root / name / JOB / ID, f"{job}\n")
    array = jobs[0].split("_")[0]
    ask("squeue", "--noheader", f"--jobs={array}")  # it is known to SLURM
    return array


def _allow_open_files(number: int) -> None:
    """A lock of each run is open at the same time; the usual limit is 1,024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
