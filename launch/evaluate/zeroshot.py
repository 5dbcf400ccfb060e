"""Zero-shot evaluation of one model: `pineco eval zeroshot --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pineco.data_pipeline.files import user_path, user_place
from pineco.launch.arguments import check_report_path, full_disk, make_folder, positive
from pineco.launch.evaluate.output import log_evaluation

if TYPE_CHECKING:
    from pineco.evals.results.results import EvalReport


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pineco eval zeroshot",
        description=__doc__.partition(":")[0],
        epilog="Several GPUs: start it with torchrun. An evaluation that was cut off goes "
        "on where it was when it is started again with the same --out.",
    )
    parser.add_argument(
        "--model",
        type=user_place,
        help="export directory, local-dir:FOLDER, open_clip's NAME:TAG, or NAME (random weights)",
    )
    parser.add_argument(
        "--data",
        type=user_place,
        required=True,
        help="folder, s3:// or http(s):// address of data sets in the CLIP_benchmark layout",
    )
    parser.add_argument(
        "--tasks",
        required=True,
        help="benchmarks by key, group, tag or glob, or folders, joined by commas or +, e.g. paper29+paper2",
    )
    parser.add_argument(
        "--layout",
        action="store_true",
        help="say which files each task needs and what is there; stop, with exit code 2 where some are missing",
    )
    parser.add_argument(
        "--out",
        type=user_path,
        default=Path("report.json"),
        help="report to write, *.json; *.md and *.html come beside it (%(default)s)",
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images or texts at a time (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the towers (%(default)s)")
    parser.add_argument("--workers", type=positive, help="threads that decode images (one a core, 16 at most)")
    parser.add_argument(
        "--prompts",
        choices=("templates", "cupl", "both"),
        default="templates",
        help="templates of all classes, cupl_prompts.json of each data set, or both (%(default)s)",
    )
    parser.add_argument("--allow-missing", action="store_true", help="measure the tasks whose data is there")
    parser.add_argument("--partial-average", action="store_true", help="average also where tasks are missing")
    options = parser.parse_args(arguments)
    if options.model is None and not options.layout:
        parser.error("the following arguments are required: --model")
    return options


def run(options: argparse.Namespace) -> EvalReport:
    """Measures, then writes. What needs no torch is checked first, since importing it takes seconds."""
    from pineco.evals.data.datasets import resolve_tasks

    check_report_path(options.out)
    resolve_tasks(options.data, options.tasks, allow_missing=options.allow_missing, prompts=options.prompts)
    for folder in (options.out.parent, options.out.with_suffix("")):
        make_folder(folder, options.out)

    from pineco.data_pipeline.progress import Bars
    from pineco.evals.models.load import load_model
    from pineco.evals.ranks import ranks_of_environment
    from pineco.evals.report.write import terminal_table, write_report
    from pineco.evals.zeroshot.suite import How, evaluate

    with ranks_of_environment() as ranks:
        device = options.device if options.device != "cuda" or ranks.world == 1 else f"cuda:{ranks.local}"
        model = load_model(options.model, device=device, precision=options.precision)
        how = How(
            batch_size=options.batch_size,
            workers=options.workers,
            parts=options.out.with_suffix(""),
            allow_missing=options.allow_missing,
            prompts=options.prompts,
            ranks=ranks,
        )
        with Bars(show=ranks.leads) as bars:
            report = evaluate(model, options.data, options.tasks, how, progress=bars)
        if ranks.leads:
            from rich.console import Console

            markdown = write_report(options.out, report, partial_average=options.partial_average)
            Console().print(terminal_table(report, partial_average=options.partial_average))
            print("\n".join(map(str, (options.out, markdown, options.out.with_suffix(".html")))))
    return report


def show_layout(options: argparse.Namespace) -> int:
    """Prints what the selected tasks need; 2 where some of them are not here, else 0."""
    from pineco.evals.data.datasets import layout_needed, own_tasks
    from pineco.evals.data.roots import DataRoot
    from pineco.evals.data.tasks import load_tasks, select_tasks

    root = DataRoot(options.data)
    table = tuple(load_tasks().values())
    selected = select_tasks(options.tasks, table, own_tasks(root, options.tasks, table))
    tasks = {task: root.find(task.key) for task in selected}
    for task, place in tasks.items():
        print(f"{task.key}: {place}" if place else f"{task.key}: not in {root.root}; it needs\n{layout_needed(task)}")
    here = sum(place is not None for place in tasks.values())
    print(f"{here} of {len(tasks)} are here")
    return 0 if here == len(tasks) else 2


def _run(options: argparse.Namespace) -> EvalReport:
    try:
        return run(options)
    except OSError as error:
        raise full_disk(error) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for what the user can mend, or for each task without a figure."""
    options = parse_arguments(arguments)
    if options.layout:
        return show_layout(options)
    log_evaluation()
    report = _run(options)
    for task, why in report.failed.items():
        print(f"pineco: {task} has no figure: {why}", file=sys.stderr)
    return 2 if report.failed else 0
