"""Runs benchmarks in one pass: the model once, every prompt once, every image once, figures from the features."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.datasets import Folder, ResolvedTasks, resolve_tasks
from pineco.evals.data.names import few
from pineco.evals.data.prompts import PromptChoice
from pineco.evals.data.tasks import Task
from pineco.evals.models.model import Model
from pineco.evals.ranks import Ranks, agree
from pineco.evals.results.provenance import measurement
from pineco.evals.results.results import EvalReport, EvalResult
from pineco.evals.zeroshot.classification import classification_outcomes
from pineco.evals.zeroshot.images import Images, encode_images
from pineco.evals.zeroshot.intervals import intervals
from pineco.evals.zeroshot.multilabel import multilabel_outcomes
from pineco.evals.zeroshot.outcomes import Outcomes, chance, classes_without_images, metrics
from pineco.evals.zeroshot.parts import Parts
from pineco.evals.zeroshot.retrieval import retrieval_outcomes
from pineco.evals.zeroshot.texts import TextCache, encode_classes, encode_texts

Progress = Callable[[str, int, int | None], None]  # what is done, how much of it, of how much where that is known
TEXTS = "texts"  # folder of the text embeddings, beside the parts
_SEED = 0  # of the bootstrap's draws, the same for every model, so that intervals can be compared


@dataclass(frozen=True, kw_only=True)
class How:
    """How an evaluation works; of these only `prompts` changes what it finds."""

    batch_size: int = 256  # images or texts that go through the model at a time
    workers: int | None = None  # threads that decode images; None: one a CPU core, 16 at most
    parts: Path | None = None  # folder of what is finished, from which a second start goes on; None keeps nothing
    allow_missing: bool = False  # measure what is there, and name the rest
    prompts: PromptChoice = "templates"
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.workers is not None and self.workers < 1):
            raise InputError(f"batch size {self.batch_size} and workers {self.workers} must be at least 1")

    @property
    def threads(self) -> int:
        return self.workers or min(16, os.cpu_count() or 1)


def evaluate(
    model: Model,
    data_root: str | Path,
    tasks: str | Sequence[str],
    how: How = How(),
    *,
    progress: Progress = lambda what, done, of: None,
) -> EvalReport:
    """Measures `model` on every selected task (see `pineco.evals.data.tasks.select_tasks`) under `data_root`.

    All data sets are checked before anything is measured. A task that turns out to have bad data gets no figure and a
    line in `failed`; the others go on. Every process returns the report; one of them keeps the parts. Raises InputError
    where no task could be measured.
    """
    started = time.perf_counter()
    resolved = resolve_tasks(data_root, tasks, allow_missing=how.allow_missing, prompts=how.prompts)
    parts = Parts(how.parts, model)
    results = _finished(parts, resolved, how.ranks)
    todo = [(task, folder) for task, folder in resolved if task.key not in results]
    weights = encode_classes(
        model,
        {task.key: folder.class_prompts() for task, folder in todo if folder.kind != "retrieval"},
        batch_size=how.batch_size,
        cache=TextCache(how.parts and how.parts / TEXTS),
        ranks=how.ranks,
        progress=lambda done, of: progress("prompts", done, of),
    )
    failed: dict[str, str] = {}
    for task, folder in todo:
        try:
            results[task.key] = _measure(model, task, folder, weights.get(task.key), how, parts, progress)
        except InputError as error:
            failed[task.key] = str(error).removeprefix(f"{task.key}: ")
            if how.ranks.leads:
                parts.keep_failure(task, folder, failed[task.key])
    if not results:
        raise InputError("; ".join(f"{key}: {why}" for key, why in failed.items()))
    report = _report(model, resolved, results, failed, tasks)
    return replace(report, seconds=round(time.perf_counter() - started, 3))


def assemble(
    model: Model,
    data_root: str | Path,
    tasks: str | Sequence[str],
    how: How,
) -> EvalReport | None:
    """The report of several evaluations that shared the tasks and `how.parts`; None while one is still at work.

    Its seconds are the sum of what they took.
    """
    resolved = resolve_tasks(data_root, tasks, allow_missing=how.allow_missing, prompts=how.prompts)
    parts = Parts(how.parts, model)
    results = _finished(parts, resolved, how.ranks)
    rest = [(task.key, parts.find_failure(task, folder)) for task, folder in resolved if task.key not in results]
    failed = {key: why for key, why in rest if why is not None}
    if not results or len(failed) < len(rest):
        return None
    report = _report(model, resolved, results, failed, tasks)
    return replace(report, seconds=round(sum(result.seconds for result in report.results), 3))


def _report(
    encoder: Model,
    resolved: ResolvedTasks,
    results: Mapping[str, EvalResult],
    failed: Mapping[str, str],
    tasks: str | Sequence[str],
) -> EvalReport:
    return EvalReport(
        **measurement(encoder),
        results=tuple(results[task.key] for task, _ in resolved if task.key in results),
        selection=tasks if isinstance(tasks, str) else ",".join(tasks),
        missing=tuple(task.key for task in resolved.missing),
        failed=dict(failed),
    )


def _finished(parts: Parts, resolved: Sequence[tuple[Task, Folder]], ranks: Ranks) -> dict[str, EvalResult]:
    """Results of an earlier start, by task: those that all processes see."""
    found = {task.key: parts.find(task, folder) for task, folder in resolved}
    seen = ranks.gather_json([key for key, result in found.items() if result is not None])
    return {key: result for key, result in found.items() if result is not None and all(key in row for row in seen)}


def _measure(
    model: Model,
    task: Task,
    folder: Folder,
    weights: Tensor | None,
    how: How,
    parts: Parts,
    progress: Progress,
) -> EvalResult:
    started = time.perf_counter()
    images = encode_images(
        model,
        folder,
        task.key,
        batch_size=how.batch_size,
        threads=how.threads,
        ranks=how.ranks,
        progress=lambda done: progress(task.key, done, task.size),
    )
    outcomes = _outcomes(model, folder, images, weights, how)
    result = EvalResult(
        task=task.key,
        main_metric=task.main_metric,
        metrics=metrics(outcomes),
        chance=chance(outcomes),
        intervals=intervals(outcomes, seed=_SEED),
        samples=len(images.examples),
        full_size=task.size,
        seconds=round(time.perf_counter() - started, 3),
        prompts=folder.prompts_from,
        data=images.data,
        notes=_notes(folder, outcomes),
    )
    agree(how.ranks, lambda: parts.keep(task, folder, result, outcomes) if how.ranks.leads else None)
    return result


def _notes(folder: Folder, outcomes: Outcomes) -> tuple[str, ...]:
    """A name too many in classnames.txt shifts all names behind it, and nothing else would tell."""
    empty = [folder.classnames[number] for number in classes_without_images(outcomes)]
    if not empty:
        return ()
    return (f"{len(empty)} of {len(folder.classnames)} classes have no image: {few(empty)}",)


def _outcomes(model: Model, folder: Folder, images: Images, weights: Tensor | None, how: How) -> Outcomes:
    if weights is None:
        return _retrieval(model, images, how)
    if folder.kind == "multilabel":
        labels = torch.zeros(len(images.examples), len(weights), dtype=torch.bool)
        for row, example in enumerate(images.examples):
            labels[row, list(example.labels)] = True
        return multilabel_outcomes(images.features, weights, labels)
    return classification_outcomes(images.features, weights, torch.tensor([e.label for e in images.examples]))


def _retrieval(model: Model, images: Images, how: How) -> Outcomes:
    captions = [text for example in images.examples for text in example.captions]
    counts = torch.tensor([len(example.captions) for example in images.examples])
    unique = list(dict.fromkeys(captions))
    row_of = {text: row for row, text in enumerate(unique)}
    features = encode_texts(model, unique, batch_size=how.batch_size, ranks=how.ranks, progress=lambda done, of: None)
    rows = torch.tensor([row_of[text] for text in captions])
    return retrieval_outcomes(images.features, features[rows], torch.arange(len(counts)).repeat_interleave(counts))
