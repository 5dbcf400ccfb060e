"""Zero-shot evaluation of one model: `python -m launch.evaluate --help`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import InputError


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.evaluate", description=__doc__.partition(":")[0])
    parser.add_argument(
        "--model", required=True, help="export directory, open_clip NAME:PRETRAINED, or NAME (random weights)"
    )
    parser.add_argument("--data", required=True, help="folder of data sets in the CLIP_benchmark layout")
    parser.add_argument(
        "--tasks",
        required=True,
        help="keys, groups, tags or globs of evals/tasks.yaml, or folders, by commas",
    )
    parser.add_argument("--out", required=True, type=Path, help="report to write, *.json; *.md comes beside it")
    parser.add_argument("--batch-size", type=int, default=256, help="images or texts at a time (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the towers (%(default)s)")
    parser.add_argument("--workers", type=int, help="threads that decode images (one a core, 16 at most)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Measures, then writes. What needs no torch is checked first, since importing it takes seconds."""
    from evals.datasets import resolve_tasks
    from evals.report import terminal_table, write_report

    _check_output(options.out)
    resolve_tasks(options.data, options.tasks)

    from rich.console import Console

    from evals.encoder import load_encoder
    from evals.suite import evaluate

    console = Console(stderr=True)
    encoder = load_encoder(options.model, device=options.device, precision=options.precision)
    with console.status("reading") as status:
        report = evaluate(
            encoder,
            options.data,
            options.tasks,
            batch_size=options.batch_size,
            workers=options.workers,
            progress=lambda task, done: status.update(f"{task.key}: {done:,} images"),
        )
    markdown = write_report(options.out, report)
    Console().print(terminal_table(report))
    print(f"{options.out}\n{markdown}")


def _check_output(path: Path) -> None:
    if path.suffix != ".json" or path.is_dir():
        raise InputError(f"--out {path}: must be a file that ends in .json")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}; create it first")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for what the user can mend."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="pineco: %(message)s")
    logging.getLogger("evals").setLevel(logging.INFO)
    try:
        run(options)
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
