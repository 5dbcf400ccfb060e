"""pineco compare RUN RUN ... [--out DIR]: runs or reports against the first of them, image by image.

A RUN is a run directory (its last measured checkpoint), RUN@STEP, or a report of `pineco eval zeroshot` (*.json).
Run directories whose recipes differ in nothing but the seed are one method, whose mean and spread are shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path
from pineco.evals.report.write import read_reports
from pineco.evals.results.results import EvalReport
from pineco.launch.arguments import full_disk, make_folder
from pineco.launch.rundir.layout import RECIPE, REPORTS, by_step
from pineco.pretrain.recipe.load import first_difference, load_recipe
from pineco.pretrain.recipe.settings import Recipe


@dataclass(frozen=True)
class Compared:
    """One of the things that are compared."""

    name: str
    report: EvalReport
    outcomes: Path  # folder of its tasks' outcomes
    recipe: Recipe | None  # None for a report of its own


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pineco compare", description="Compare runs or reports with the first of them, image by image."
    )
    parser.add_argument("runs", nargs="+", help="run directory, RUN@STEP or report (*.json); the first is the baseline")
    parser.add_argument("--partial-average", action="store_true", help="average also where one of a pair lacks tasks")
    parser.add_argument(
        "--out", type=user_path, default=Path("runs/comparison"), help="folder to write to (%(default)s)"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Reads every report before torch is imported, which takes seconds."""
    found = find(options.runs)
    make_folder(options.out, options.out)

    from rich.console import Console

    from pineco.evals.report.comparison import terminal_comparison, write_comparison
    from pineco.evals.zeroshot.compare import compare

    with Console(stderr=True).status("comparing") as status:
        comparison = compare(
            {one.name: (one.report, one.outcomes) for one in found},
            methods=methods(found),
            partial=options.partial_average,
            progress=lambda task: status.update(f"comparing {task}"),
        )
    markdown = write_comparison(options.out, comparison)
    Console().print(terminal_comparison(comparison))
    print(f"{markdown.with_suffix('.html')}\n{markdown}")


def find(arguments: Sequence[str]) -> list[Compared]:
    """What each argument means, under a name of its own; raises InputError for one that means nothing."""
    if len(arguments) < 2:
        raise InputError("a comparison needs two runs or reports at least, e.g. runs/random runs/perceptual")
    if twice := sorted({argument for argument in arguments if arguments.count(argument) > 1}):
        raise InputError(f"{twice[0]}: named twice; a run is not compared to itself")
    short = [_short(argument) for argument in arguments]
    names = [name if short.count(name) == 1 else argument for name, argument in zip(short, arguments, strict=True)]
    return [_find(name, argument) for name, argument in zip(names, arguments, strict=True)]


def methods(found: Sequence[Compared]) -> list[str]:
    """The method of each: the name of the first run whose recipe is the same but for the seed."""
    chosen: list[str] = []
    for one in found:
        same = (other for other in found if _differ_in_seed_alone(other, one))
        chosen.append(next(same, one).name)
    return chosen


def _differ_in_seed_alone(a: Compared, b: Compared) -> bool:
    if a is b:
        return True
    if a.recipe is None or b.recipe is None or a.report.samples_seen != b.report.samples_seen:
        return False
    return first_difference(replace(a.recipe, seed=0), replace(b.recipe, seed=0)) is None


def _find(name: str, argument: str) -> Compared:
    path = Path(argument)
    if path.is_dir():
        return _of_run(name, path, None)
    if path.is_file():
        return _of_report(name, path)
    run_name, at, step = argument.rpartition("@")
    if at and Path(run_name).is_dir():
        if not step.isdecimal():
            raise InputError(f"{argument}: after @ comes the step of a checkpoint, such as {run_name}@1000")
        return _of_run(name, Path(run_name), int(step))
    raise InputError(f"{argument}: no such run directory or report")


def _of_run(name: str, run_directory: Path, step: int | None) -> Compared:
    paths = by_step(run_directory / REPORTS)
    if not paths:
        raise InputError(f"{run_directory}: no measured checkpoint below reports/; set evaluation.tasks in its recipe")
    if step is not None and step not in paths:
        steps = ", ".join(map(str, sorted(paths)))
        raise InputError(f"{run_directory}@{step}: not measured; measured steps are {steps}")
    path = paths[max(paths) if step is None else step]
    recipe = run_directory / RECIPE
    return replace(_of_report(name, path), recipe=load_recipe(str(recipe)) if recipe.is_file() else None)


def _of_report(name: str, path: Path) -> Compared:
    reports = read_reports(path)
    if len(reports) != 1:
        raise InputError(f"{path}: holds {len(reports)} checkpoints; name the run directory, or RUN@STEP")
    return Compared(name, reports[0], path.with_suffix(""), None)


def _short(argument: str) -> str:
    """The last part of the path; that of the folder for a file that is called report.json."""
    path = Path(argument)
    if path.suffix == ".json":
        return path.parent.name if path.stem == "report" and path.parent.name else path.stem
    return path.name or argument


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for what the user can mend."""
    options = parse_arguments(arguments)
    _run(options)
    return 0


def _run(options: argparse.Namespace) -> None:
    try:
        run(options)
    except OSError as error:
        raise full_disk(error) from None
