"""Whether a model finds images as alike as people do, on triplets that they judged.

`pineco eval triplets --help`
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pineco.data_pipeline.files import user_path, user_place
from pineco.launch.arguments import check_report_path, positive, whole
from pineco.launch.evaluate.output import log_evaluation, print_paths, write_texts

if TYPE_CHECKING:
    import numpy as np

    from pineco.data_pipeline.triplets.table import TripletTable
    from pineco.evals.models.perceptual import PerceptualModel
    from pineco.evals.triplets.encode import Measured
    from pineco.evals.triplets.report import Baseline, SplitReport, TripletReport
    from pineco.evals.triplets.scores import Choices

_BOOTSTRAP_SEED = 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    what = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="pineco eval triplets", description=what)
    add = parser.add_argument
    add(
        "--model",
        type=user_place,
        required=True,
        help="timm:NAME[:FILE.safetensors], or an export directory: ours, timm's, open_clip's",
    )
    add(
        "--data",
        type=user_place,
        required=True,
        help="folder with NIGHTS' data.csv; or folder or s3:// of shards with triplets.csv",
    )
    add(
        "--out",
        type=user_path,
        required=True,
        help="report to write, *.json; *.md, *.svg and the distances come beside it",
    )
    add("--split", nargs="+", default=["test"], help="splits of the table to measure (test)")
    add(
        "--min-votes",
        type=whole,
        default=6,
        help="rows with fewer votes are left out (%(default)s, as NIGHTS' authors)",
    )
    add(
        "--features",
        choices=("cls", "embedding", "cls_patch"),
        help="what is compared (cls; an aligned model has its own)",
    )
    add("--mean-centre", action="store_true", help="compare as the released DreamSim does: vectors without their mean")
    add("--size", type=positive, help="images become SIZE x SIZE pixels (the model's own)")
    add("--baseline", type=user_path, help="report of another model, to which this one is compared triplet by triplet")
    add("--batch-size", type=positive, default=32, help="images through the model at a time (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the model (%(default)s)")
    add("--workers", type=positive, default=min(16, os.cpu_count() or 1), help="threads that decode (%(default)s)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> TripletReport:
    """Measures, then writes. What needs no model is checked first, since loading one takes seconds."""
    from pineco.evals.triplets.report import read_baseline, votes_digest

    check_report_path(options.out)
    baseline = read_baseline(options.baseline) if options.baseline else None

    from pineco.data_pipeline.reading.shard_set import ShardOptions
    from pineco.data_pipeline.triplets.source import open_triplets
    from pineco.data_pipeline.triplets.table import select_rows

    table, reader = open_triplets(options.data, ShardOptions(memory=0))  # no image is read twice
    splits = {name: select_rows(table, name, options.min_votes, ties=True) for name in dict.fromkeys(options.split)}
    asked = {name: votes_digest(table.right_vote[rows], table.votes[rows]) for name, rows in splits.items()}
    if baseline is not None:
        for name, digest in asked.items():
            baseline.check_votes(name, digest)

    from pineco.data_pipeline.progress import Bars
    from pineco.evals.models.perceptual import load_perceptual
    from pineco.evals.triplets.encode import How, measure

    model = load_perceptual(
        options.model,
        features=options.features,
        mean_centre=options.mean_centre,
        image_size=options.size,
        device=options.device,
        precision=options.precision,
    )
    started = time.monotonic()
    with Bars(show=True) as bars:
        how = How(batch_size=options.batch_size, threads=options.workers, progress=bars)
        measured = measure(model, table, reader, splits, how)
    others = _others(baseline, measured)
    parts = {name: _split(table, name, one, asked[name], others.get(name)) for name, one in measured.items()}
    report = _report(model, options, parts, baseline, time.monotonic() - started)
    _write(options.out, report, {name: one.choices for name, one in measured.items()}, others)
    return report


def _others(baseline: Baseline | None, measured: dict[str, Measured]) -> dict[str, Choices]:
    """The baseline's choices by split; none without one."""
    from pineco.evals.triplets.report import load_distances

    if baseline is None:
        return {}
    for name, one in measured.items():
        baseline.check_images(name, one.digest)
    return {name: load_distances(baseline.path, name) for name in measured}


def _split(table: TripletTable, name: str, measured: Measured, asked: str, other: Choices | None) -> SplitReport:
    import numpy as np

    from pineco.evals.triplets.report import SplitReport
    from pineco.evals.triplets.scores import by_share, differences, figures

    choices, compared = measured.choices, {}
    numbers, counts = np.unique(choices.votes, return_counts=True)
    if other is not None:
        compared = {
            key: differences(choices, other, seed=_BOOTSTRAP_SEED, by_reference=by_reference)
            for key, by_reference in (("differences", False), ("differences_by_reference", True))
        }
    return SplitReport(
        triplets=len(choices),
        few_votes=_rows(table, name) - len(choices),
        undecided=int((choices.right_vote == 0.5).sum()),
        equal_distances=int((choices.left == choices.right).sum()),
        votes=dict(zip(map(str, numbers.tolist()), counts.tolist(), strict=True)),
        votes_digest=asked,
        images_digest=measured.digest,
        figures=figures(choices, seed=_BOOTSTRAP_SEED),
        by_share=by_share(choices, seed=_BOOTSTRAP_SEED),
        **compared,
    )


def _rows(table: TripletTable, split: str) -> int:
    inside: np.ndarray = table.of_split(split)
    return int(inside.sum())


def _report(
    model: PerceptualModel,
    options: argparse.Namespace,
    splits: dict[str, SplitReport],
    baseline: Baseline | None,
    seconds: float,
) -> TripletReport:
    from pineco.evals.results.draws import DRAWS
    from pineco.evals.results.provenance import measurement
    from pineco.evals.triplets.report import TripletReport

    return TripletReport(
        **measurement(model, seconds),
        features=model.features,
        mean_centre=model.mean_centre,
        image_size=model.image_size,
        width=model.width,
        data=options.data,
        min_votes=options.min_votes,
        splits=splits,
        draws=DRAWS,
        baseline=baseline.model if baseline else None,
        baseline_identity=baseline.identity if baseline else None,
    )


def _write(path: Path, report: TripletReport, choices: dict[str, Choices], others: dict[str, Choices]) -> None:
    from pineco.data_pipeline.files import write_text_atomically
    from pineco.evals.report.plots import draw_triplets, svg
    from pineco.evals.triplets.choices import CHANCE
    from pineco.evals.triplets.report import judged, markdown, save_distances
    from pineco.evals.triplets.scores import by_share, figures

    rows = []
    for name, split in report.splits.items():
        rows.append(judged(0, report.model, name, split.figures, split.by_share))
        if name in others:
            again = (figures(others[name], seed=_BOOTSTRAP_SEED), by_share(others[name], seed=_BOOTSTRAP_SEED))
            rows.append(judged(1, report.baseline or "", name, *again))
    picture, title = path.with_suffix(".svg"), f"{report.model} on {report.data}"
    write_text_atomically(picture, svg(draw_triplets(title, rows, chance=CHANCE), title))
    save_distances(path, choices)
    write_texts(path, markdown=markdown(report, picture.name), json=report.to_json())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for what the user can mend."""
    options = parse_arguments(arguments)
    log_evaluation()
    report = run(options)
    from pineco.evals.report.formats import interval, percent, point_interval, points
    from pineco.evals.triplets.report import said

    for name, split in report.splits.items():
        left_out = f", {split.few_votes:,} with fewer than {report.min_votes} votes left out" if split.few_votes else ""
        print(f"{name}: {split.triplets:,} triplets{left_out}")
        for key, figure in split.figures.items():
            print(f"  {said(key)} {percent(figure.value)}, 95 % {interval(figure.interval)}")
        for key, gap in split.differences.items():
            print(f"  {said(key)} {points(gap.value)} points against {report.baseline}, 95 % {point_interval(gap[1:])}")
    print_paths(options.out, ".svg")
    return 0
