"""Runs benchmarks: images through the encoder once, texts once a data set, figures from the features."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from data_pipeline.errors import InputError
from evals import provenance
from evals.commit import commit
from evals.datasets import Example, Folder, decode, read_examples, resolve_tasks
from evals.encoder import Encoder
from evals.results import EvalReport, EvalResult
from evals.tasks import Kind, Task
from evals.zeroshot_classification import (
    class_prompts,
    class_weights,
    classification_chance,
    classification_metrics,
)
from evals.zeroshot_retrieval import retrieval_chance, retrieval_metrics

A = TypeVar("A")
B = TypeVar("B")
Figures = tuple[dict[str, float], dict[str, float]]  # (metrics, chance)
Progress = Callable[[Task, int], None]  # the task, and how many of its images are done


def evaluate(
    encoder: Encoder,
    data_root: str | Path,
    tasks: str | Sequence[str],
    *,
    batch_size: int = 256,
    workers: int | None = None,
    progress: Progress | None = None,
    step: int | None = None,
    samples_seen: int | None = None,
) -> EvalReport:
    """Measures `encoder` on every selected task (see `evals.tasks.select_tasks`) under `data_root`.

    `batch_size` images or texts go through the model at a time; `workers` threads decode and preprocess
    images ahead of it (default: one a CPU core, 16 at most). Neither changes a figure. `step` and
    `samples_seen` say which checkpoint this is. All folders are checked before the first image is read.
    Raises InputError for bad data, and for a model whose features are not finite.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise InputError(f"batch size {batch_size} and workers {workers} must be at least 1")
    resolved = resolve_tasks(data_root, tasks)
    threads = workers or min(16, os.cpu_count() or 1)
    results = []
    for task, folder in resolved:
        started = time.perf_counter()
        measurement = _Measurement(encoder, folder, batch_size, threads, _reporter(progress, task))
        metrics, chance = _MEASURES[task.kind](measurement)
        results.append(
            EvalResult(
                task=task.key,
                main_metric=task.main_metric,
                metrics=metrics,
                chance=chance,
                samples=measurement.images_done,
                full_size=task.size,
                seconds=round(time.perf_counter() - started, 3),
            )
        )
    return EvalReport(
        model=encoder.name,
        identity=encoder.identity,
        results=tuple(results),
        step=step,
        samples_seen=samples_seen,
        commit=commit(),
        versions=provenance.versions(),
        hardware=provenance.hardware(encoder.device),
    )


def _reporter(progress: Progress | None, task: Task) -> Callable[[int], None]:
    return (lambda done: None) if progress is None else (lambda done: progress(task, done))


@dataclass
class _Measurement:
    """One encoder on one folder: turns its images and texts into features."""

    encoder: Encoder
    folder: Folder
    batch_size: int
    threads: int
    report: Callable[[int], None]
    images_done: int = 0

    def encode_images(self) -> tuple[Tensor, list[Example]]:
        """((N, D) features, the N examples without their bytes), in file order."""
        features = _Rows()
        examples: list[Example] = []
        decoded = _ahead(self._load, read_examples(self.folder), self.threads, 2 * self.batch_size)
        while batch := list(islice(decoded, self.batch_size)):
            features.append(self.encoder.encode_images(torch.stack([pixels for pixels, _ in batch])))
            examples += [example for _, example in batch]
            self.images_done = len(examples)
            self.report(self.images_done)
        return features.tensor(), examples

    def encode_texts(self, texts: list[str]) -> Tensor:
        """(T, D) features; a text that occurs more than once is encoded once."""
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        unique = iter(row_of)
        features = _Rows()
        while batch := list(islice(unique, self.batch_size)):
            features.append(self.encoder.encode_texts(batch))
        return features.tensor()[[row_of[text] for text in texts]]

    def _load(self, example: Example) -> tuple[Tensor, Example]:
        pixels = self.encoder.preprocess(decode(example))
        return pixels, Example(example.where, b"", example.label, example.captions)


class _Rows:
    """(N, D) features that come in batches, copied into blocks of 8,192 rows.

    When each batch's own tensor was kept, a small allocation between the model's large ones, a training process grew by
    6 GB over 80,000 prompts of a 14 M-parameter model; with blocks it does not.
    """

    BLOCK = 8192

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._used = 0  # rows of the last block

    def append(self, rows: Tensor) -> None:
        while len(rows):
            if not self._blocks or self._used == self.BLOCK:
                self._blocks.append(rows.new_empty((self.BLOCK, rows.shape[1])))
                self._used = 0
            taken = rows[: self.BLOCK - self._used]
            self._blocks[-1][self._used : self._used + len(taken)] = taken
            self._used += len(taken)
            rows = rows[len(taken) :]

    def tensor(self) -> Tensor:
        return torch.cat([*self._blocks[:-1], self._blocks[-1][: self._used]])


def _measure_classification(run: _Measurement) -> Figures:
    folder = run.folder
    prompts = run.encode_texts(class_prompts(folder.classnames, folder.templates))
    weights = class_weights(prompts, len(folder.classnames))
    features, examples = run.encode_images()
    labels = torch.tensor([example.label for example in examples])
    return classification_metrics(features, weights, labels), classification_chance(len(weights))


def _measure_retrieval(run: _Measurement) -> Figures:
    image_features, examples = run.encode_images()
    captions = torch.tensor([len(example.captions) for example in examples])
    text_features = run.encode_texts([text for example in examples for text in example.captions])
    image_of_text = torch.arange(len(examples)).repeat_interleave(captions)
    return retrieval_metrics(image_features, text_features, image_of_text), retrieval_chance(captions)


_MEASURES: dict[Kind, Callable[[_Measurement], Figures]] = {
    "classification": _measure_classification,
    "retrieval": _measure_retrieval,
}


def _ahead(function: Callable[[A], B], items: Iterable[A], threads: int, ahead: int) -> Iterator[B]:
    """`function` of every item in order, computed by threads up to `ahead` items before it is asked for."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    pending: deque[Future[B]] = deque()
    source = iter(items)
    try:
        pending.extend(pool.submit(function, item) for item in islice(source, ahead))
        while pending:
            done = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(source, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
