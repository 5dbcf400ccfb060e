"""In-context or linear segmentation with the patches of one model: `pineco eval segmentation --help`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pineco.data_pipeline.files import user_path, user_place
from pineco.launch.arguments import check_report_path, positive, positive_number
from pineco.launch.evaluate.output import log_evaluation, print_paths, write_texts

if TYPE_CHECKING:
    from pineco.evals.data.segmentation import SegmentationSet
    from pineco.evals.models.model import Model
    from pineco.evals.segmentation.encode import Measured
    from pineco.evals.segmentation.report import Baseline, DenseReport

_BOOTSTRAP_SEED = 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pineco eval segmentation", description=__doc__.partition(":")[0])
    add = parser.add_argument
    add(
        "--model",
        type=user_place,
        required=True,
        help="timm:NAME[:FILE.safetensors], or an export directory of timm's or open_clip's",
    )
    add(
        "--data",
        type=user_place,
        required=True,
        help="folder or s3:// address with classes.txt and SPLIT/*.tar of images and masks",
    )
    add("--task", required=True, choices=("incontext", "linear"))
    add(
        "--out",
        type=user_path,
        required=True,
        help="report to write, *.json; *.md, *.png and the counts come beside it",
    )
    add("--baseline", type=user_path, help="report of another model, to which this one is compared image by image")
    add("--train", default="train", help="split of the memory, or of the linear layer (%(default)s)")
    add("--test", default="test", help="split that is measured (%(default)s)")
    add("--size", type=positive, default=224, help="images become SIZE x SIZE pixels (%(default)s)")
    add("--seeds", type=positive, default=3, help="runs, where chance has a part (%(default)s)")
    add("--memory", type=positive, default=1_024_000, help="incontext: patches in the memory (%(default)s)")
    add("--neighbours", type=positive, default=30, help="incontext (%(default)s)")
    add(
        "--search", choices=("torch", "faiss"), default="torch", help="incontext; faiss must be installed (%(default)s)"
    )
    add("--epochs", type=positive, default=25, help="linear (%(default)s)")
    add("--drop-at", type=positive, help="linear: epoch after which --schedule step divides by ten (4/5 of the epochs)")
    add("--learning-rate", type=positive_number, default=0.01, help="linear (%(default)s)")
    add("--schedule", choices=("step", "cosine"), default="step", help="linear (%(default)s)")
    add("--head-batch", type=positive, default=128, help="linear: images a step (%(default)s)")
    add("--batch-norm", action="store_true", help="linear: before the layer")
    add("--cache-gib", type=positive_number, default=4.0, help="linear: features in memory, then on disk (%(default)s)")
    add("--batch-size", type=positive, default=32, help="images through the model at a time (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the model (%(default)s)")
    add("--workers", type=positive, default=min(16, os.cpu_count() or 1), help="threads that decode (%(default)s)")
    add("--pictures", type=positive, default=6, help="test images that are shown (%(default)s)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> DenseReport:
    """Measures, then writes. What needs no torch is checked first, since importing it takes seconds."""
    from pineco.evals.data.segmentation import open_segmentation
    from pineco.evals.segmentation.report import read_baseline

    check_report_path(options.out)
    baseline = read_baseline(options.baseline) if options.baseline else None
    data = open_segmentation(options.data, train=options.train, test=options.test)
    if baseline is not None:
        baseline.check(task=options.task, test_digest=data.test.digest, size=options.size)

    from pineco.evals.models.load import load_model
    from pineco.evals.models.model import check_size

    if options.task == "incontext" and options.search == "faiss":
        from pineco.evals.segmentation.incontext import import_faiss

        import_faiss()
    model = load_model(options.model, device=options.device, precision=options.precision)
    check_size(options.size, model.patch_size)
    started = time.monotonic()
    measured, settings, seeds = _measure(model, data, options)
    report = _report(model, data, options, measured, settings, seeds, baseline, time.monotonic() - started)
    _write(options.out, report, measured, data)
    return report


def _measure(
    model: Model, data: SegmentationSet, options: argparse.Namespace
) -> tuple[Measured, dict[str, Any], tuple[int, ...]]:
    """(what was measured, the settings of the task, the seeds that were run)."""
    from pineco.data_pipeline.progress import Bars
    from pineco.evals.segmentation.encode import How

    seeds, images = tuple(range(options.seeds)), data.test.images
    few = min(options.pictures, images)
    show = {place * (images - 1) // max(1, few - 1) for place in range(few)}
    with Bars(show=True) as bars:
        how = How(size=options.size, batch_size=options.batch_size, threads=options.workers, progress=bars)
        if options.task == "linear":
            from pineco.evals.segmentation.linear import LinearProbe, evaluate_linear

            probe = LinearProbe(
                epochs=options.epochs,
                learning_rate=options.learning_rate,
                batch_size=options.head_batch,
                schedule=options.schedule,
                drop_at=options.drop_at or max(1, options.epochs * 4 // 5),
                batch_norm=options.batch_norm,
                cache_bytes=int(options.cache_gib * 2**30),
            )
            return evaluate_linear(model, data, probe, how, seeds=seeds, show=show), asdict(probe), seeds

        from pineco.evals.segmentation.incontext import InContext, evaluate_incontext, is_seeded

        context = InContext(memory_size=options.memory, neighbours=options.neighbours, search=options.search)
        if not is_seeded(context, data.train.images, (options.size // model.patch_size) ** 2):
            seeds = (0,)  # the memory holds every patch, so every run would be the same
        return evaluate_incontext(model, data, context, how, seeds=seeds, show=show), asdict(context), seeds


def _report(
    encoder: Model,
    data: SegmentationSet,
    options: argparse.Namespace,
    measured: Measured,
    settings: dict[str, Any],
    seeds: tuple[int, ...],
    baseline: Baseline | None,
    seconds: float,
) -> DenseReport:
    from pineco.evals.results.provenance import measurement
    from pineco.evals.segmentation.miou import chance, difference, intervals, matched_miou, mean_class_iou, metrics
    from pineco.evals.segmentation.report import DenseReport, load_counts

    known, compared = intervals(measured.runs, seed=_BOOTSTRAP_SEED), dict[str, tuple[float, float, float]]()
    if baseline is not None:
        others = load_counts(baseline.path)
        compared = {name: difference(measured.runs, others, name, seed=_BOOTSTRAP_SEED) for name in known}
    matched = options.task == "incontext"
    runs = tuple(metrics(run) | ({"miou_matched": matched_miou(run)} if matched else {}) for run in measured.runs)
    return DenseReport(
        task=options.task,
        **measurement(encoder, seconds),
        data=data.root,
        test_digest=data.test.digest,
        images={split.name: split.images for split in (data.train, data.test)},
        size=options.size,
        seeds=seeds,
        metrics={name: sum(run[name] for run in runs) / len(runs) for name in runs[0]},
        intervals=known,
        chance=chance(measured.runs[0]),
        runs=runs,
        class_iou=dict(zip(data.classes, mean_class_iou(measured.runs), strict=True)),
        settings=settings,
        baseline=baseline.model if baseline else None,
        baseline_identity=baseline.identity if baseline else None,
        differences=compared,
    )


def _write(path: Path, report: DenseReport, measured: Measured, data: SegmentationSet) -> None:
    from pineco.evals.data.segmentation import decode_pair
    from pineco.evals.segmentation.picture import Shown, draw
    from pineco.evals.segmentation.report import markdown, save_counts

    pairs = [(example, decode_pair(example, len(data.classes)), mask) for example, mask in measured.shown]
    rows = [Shown(example.where, image, truth, mask.numpy()) for example, (image, truth), mask in pairs]
    draw(f"{report.model}, {report.task}", rows, report.class_iou).save(path.with_suffix(".png"))
    save_counts(path, measured.runs)
    write_texts(path, markdown=markdown(report, path.with_suffix(".png").name), json=report.to_json())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for what the user can mend."""
    options = parse_arguments(arguments)
    log_evaluation()
    report = run(options)
    from pineco.evals.report.formats import interval, percent, point_interval, points

    for name, value in report.metrics.items():
        sure, chance = interval(report.intervals.get(name)), percent(report.chance.get(name))
        print(f"{name} {percent(value)}, 95 % {sure}, chance {chance}")
    for name, (value, low, high) in report.differences.items():
        print(f"{name} {points(value)} points against {report.baseline}, 95 % {point_interval((low, high))}")
    print_paths(options.out, ".png")
    return 0
