"""How alike models see the images of one set, and how like people (CIFAR-10H): `pineco eval probe --help`."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path, user_place
from pineco.launch.evaluate.output import log_evaluation, print_paths, write_texts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pineco.data_pipeline.progress import Bars
    from pineco.evals.data.cifar10h_counts import People
    from pineco.evals.data.datasets import Example, Folder, Problems
    from pineco.evals.models.model import Model

SCHEMA, SCHEMA_VERSION = "pineco.probe", 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pineco eval probe", description=__doc__.partition(":")[0])
    add = parser.add_argument
    add("--models", nargs="+", required=True, help="two or more: export directories, NAME:TAG of open_clip, timm:NAME")
    add(
        "--data",
        type=user_place,
        required=True,
        help="folder or address: CLIP_benchmark's layout, or classes.txt with test/*.tar",
    )
    add("--out", type=user_path, required=True, help="report to write, *.json; *.md and *.png come beside it")
    add("--layers", choices=("cls", "patch"), help="also compare each block's class token, or the mean of its patches")
    add("--cifar10h", help="people's counts: cifar10h-counts.npy, a .tsv of keys, or `shards` (in the samples' .json)")
    add("--rsa-images", type=_positive, default=500, help="for RSA at most, evenly spread (%(default)s)")
    add("--draws", type=_positive, default=1000, help="of the bootstrap (%(default)s)")
    add("--batch-size", type=_positive, default=64, help="images through a model at a time (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the models (%(default)s)")
    add("--workers", type=_positive, default=min(16, os.cpu_count() or 1), help="threads that decode (%(default)s)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


@dataclass(frozen=True)
class _Set:
    root: str
    examples: Callable[[Problems], Iterator[Example]]
    folder: Folder | None  # None for a set with masks
    people: People | None


@dataclass(frozen=True)
class Encoded:
    """What one model gives for the N images of a set."""

    name: str
    identity: str
    embeddings: np.ndarray  # (N, D) float32, L2-normalised
    layers: Sequence[np.ndarray]  # (N, D) float32 of each block; none where not asked for
    classes: np.ndarray | None  # (C, D) text embeddings; None without people's counts or a text tower
    digest: str  # of the images' bytes, in order


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Encodes with one model after the other, compares, writes. What needs no model is checked first."""
    path, models = options.out, options.models
    if path.suffix != ".json" or not path.parent.is_dir():
        raise InputError(f"--out {path}: must be a file that ends in .json, in a folder that exists")
    if len(models) < 2 or len(set(models)) < len(models):
        raise InputError(f"--models {' '.join(models)}: needs two models or more, each once")
    data, started = _open(options.data, options.cifar10h), time.monotonic()

    from pineco.data_pipeline.progress import Bars

    with Bars(show=True) as bars:
        found = [encode(model, data, options, bars) for model in models]
        if len({one.digest for one in found}) > 1:
            raise InputError(f"{data.root}: its images changed while they were read; start again")
        report = compare(found, short_names(models), data, options)
    report["seconds"] = round(time.monotonic() - started, 1)
    from pineco.evals.report.plots import draw_probe, write_png
    from pineco.evals.representation.report import markdown

    write_png(path.with_suffix(".png"), draw_probe(report))
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    write_texts(path, markdown=markdown(report, path.with_suffix(".png").name), json=text)
    return report


def short_names(models: Sequence[str]) -> list[str]:
    """What of each path the others do not share: runs/a/checkpoints/step_1/export -> a/step_1."""
    parts = [[part for part in model.split("/") if part] for model in models]
    common = set.intersection(*(set(one) for one in parts))
    short = ["/".join(part for part in one if part not in common) for one in parts]
    return short if all(short) and len(set(short)) == len(short) else list(models)


def _open(root: str, counts: str | None) -> _Set:
    from pineco.evals.data.datasets import Example, open_folder, read_examples
    from pineco.evals.data.roots import open_place
    from pineco.evals.data.segmentation import CLASSES_FILE, open_segmentation
    from pineco.evals.data.segmentation import read_examples as read_pairs

    if open_place(root).find(CLASSES_FILE) is not None:
        if counts is not None:
            raise InputError(f"--cifar10h: {root} has masks, not classes that people named")
        split = open_segmentation(root, train="test").test
        return _Set(root, lambda problems: (Example(e.where, e.image) for e in read_pairs(split)), None, None)
    from pineco.evals.data.cifar10h_counts import read_counts

    folder = open_folder(root)
    people = None if counts is None else read_counts(counts, folder)
    return _Set(folder.root, lambda problems: read_examples(folder, problems), folder, people)


def encode(address: str, data: _Set, options: argparse.Namespace, bars: Bars) -> Encoded:
    """One pass of all images; InputError where any cannot be used, and for a model that cannot be loaded."""
    import torch

    from pineco.evals.batching import Rows, ahead
    from pineco.evals.data.datasets import BadSampleError, Problems, decode
    from pineco.evals.models.block_features import BlockFeatures
    from pineco.evals.models.load import load_model

    model = load_model(address, device=options.device, precision=options.precision)
    layers = BlockFeatures(model.module, model.name, options.layers) if options.layers else None
    problems, rows, digest = Problems(), Rows(), hashlib.sha256()

    def read() -> Iterator[Example]:
        for example in data.examples(problems):
            digest.update(hashlib.sha256(example.image).digest())
            yield example

    def load(example: Example) -> Tensor | BadSampleError:
        try:
            return model.preprocess(decode(example))
        except BadSampleError as error:
            return error

    done, bad, pixels = 0, 0, ahead(load, read(), options.workers, 2 * options.batch_size)
    while batch := list(islice(pixels, options.batch_size)):
        good = [one for one in batch if isinstance(one, torch.Tensor)]
        for error in (one for one in batch if isinstance(one, BadSampleError)):
            problems.add(error)
        if not problems:  # else no figure will come of it, and the rest is only decoded
            rows.append(model.embed(torch.stack(good)))
        done, bad = done + len(batch), bad + len(batch) - len(good)
        bars(model.name, done, None)
    problems.check(data.root, done + len(problems) - bad)
    blocks = [block.tensor().numpy() for block in layers.rows] if layers else []
    texts = None if data.people is None else _texts(model, data.folder)
    return Encoded(model.name, model.identity, rows.tensor().numpy(), blocks, texts, digest.hexdigest())


def _texts(model: Model, folder: Any) -> np.ndarray | None:
    """(C, D) embeddings of the classes by their prompts; None for a model without a text tower."""
    from pineco.evals.ranks import Ranks
    from pineco.evals.zeroshot.texts import TextCache, encode_classes

    if "text" not in model.capabilities:
        return None
    sets, silent = {"": folder.class_prompts()}, lambda done, of: None
    found = encode_classes(model, sets, batch_size=64, cache=TextCache(None), ranks=Ranks(), progress=silent)
    return found[""].numpy()


def compare(found: Sequence[Encoded], labels: Sequence[str], data: _Set, options: argparse.Namespace) -> dict[str, Any]:
    """The report, without its time."""
    import numpy as np

    from pineco.evals.models.load import check_device
    from pineco.evals.representation.similarity import cka_matrix, layer_cka, rsa_matrix
    from pineco.evals.results.provenance import computed

    features, images = [one.embeddings for one in found], len(found[0].embeddings)
    few = np.unique(np.linspace(0, images - 1, min(images, options.rsa_images)).round().astype(int))
    how = {"seed": 0, "draws": options.draws}
    others = zip(labels[1:], found[1:], strict=True) if options.layers else ()
    curves = {label: layer_cka(found[0].layers, one.layers, **how) for label, one in others}
    about = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "data": data.root, "images": images}
    return {
        **about,
        "images_digest": f"sha256:{found[0].digest}",
        "models": [
            {"label": label, "name": one.name, "identity": one.identity, "width": one.embeddings.shape[1]}
            for label, one in zip(labels, found, strict=True)
        ],
        "bootstrap": {**how, "interval": 0.95, "unit": "image"},
        "cka": cka_matrix(features, **how).to_dict(),
        "cka_biased": cka_matrix(features, **how, debiased=False).to_dict(),
        "rsa": {**rsa_matrix([x[few] for x in features], **how).to_dict(), "images": len(few)},
        "layers": {"tokens": options.layers, "to": labels[0], "curves": curves} if curves else None,
        "cifar10h": data.people and _with_people(found, labels, data.people, how),
        **computed(check_device(options.device), options.precision),
    }


def _with_people(found: Sequence[Encoded], labels: Sequence[str], people: People, how: Mapping[str, int]) -> Any:
    """Every model's figures with its class means and, where it has a text tower, its text as classes."""
    from pineco.evals.representation import cifar10h as human

    rows, classes = [], people.counts.shape[1]
    for label, one in zip(labels, found, strict=True):
        x = one.embeddings
        ways = {"means": (human.class_mean_scores(x, people.labels, classes), human.mean_similarity(x, people))}
        if one.classes is not None:
            ways["text"] = (x @ one.classes.T, human.text_similarity(one.classes))
        for way, (scores, similarity) in ways.items():
            log_q, temperatures = human.predictions(scores, people)
            figures = human.agreement(log_q, similarity, people, **how)
            rows.append({"model": label, "classes_by": way, "temperatures": temperatures, **figures})
    half, entropy = human.ceiling(people, **how), human.floor(people)
    return {"models": rows, "half_of_people": half, "entropy_of_people": entropy, "chance": math.log(classes)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for what the user can mend."""
    options = parse_arguments(arguments)
    log_evaluation()
    run(options)
    print_paths(options.out, ".png")
    return 0
