"""How alike models see the images of one set, and how like people (CIFAR-10H): `python -m launch.probe --help`."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from evals.cifar10h import People
    from evals.datasets import Example, Folder, Problems
    from launch.progress import Bars

SCHEMA, SCHEMA_VERSION = "pineco.probe", 1
_PEOPLE = ("cross_entropy", "class_similarity_rsa", "entropy_correlation")
_BACK, _TEXT, _SOFT, _GRID = "#ffffff", "#1b2129", "#556070", "#e3e3e3"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#444444", "#7b3fa0")  # as evals.curve's
_GAP, _LINE, _FONT, _SMALL = 40, 50, 30, 21  # pixels; drawn at twice the size, then halved, which smooths lines


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.probe", description=__doc__.partition(":")[0])
    add = parser.add_argument
    add("--models", nargs="+", required=True, help="two or more: export directories, NAME:TAG of open_clip, timm:NAME")
    add("--data", required=True, help="folder or address: CLIP_benchmark's layout, or classes.txt with test/*.tar")
    add("--out", type=Path, required=True, help="report to write, *.json; *.md and *.png come beside it")
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

    from evals.report import write_text_atomically
    from launch.progress import Bars

    with Bars(show=True) as bars:
        found = [encode(model, data, options, bars) for model in models]
        if len({one.digest for one in found}) > 1:
            raise InputError(f"{data.root}: its images changed while they were read; start again")
        report = compare(found, short_names(models), data, options)
    report["seconds"] = round(time.monotonic() - started, 1)
    draw(report).save(path.with_suffix(".png"))
    write_text_atomically(path.with_suffix(".md"), markdown(report, path.with_suffix(".png").name))
    write_text_atomically(path, json.dumps(report, indent=2, allow_nan=False) + "\n")  # last: where it is, all is
    return report


def short_names(models: Sequence[str]) -> list[str]:
    """What of each path the others do not share: runs/a/checkpoints/step_1/export -> a/step_1."""
    parts = [[part for part in model.split("/") if part] for model in models]
    common = set.intersection(*(set(one) for one in parts))
    short = ["/".join(part for part in one if part not in common) for one in parts]
    return short if all(short) and len(set(short)) == len(short) else list(models)


def _open(root: str, counts: str | None) -> _Set:
    from evals.datasets import Example, open_folder, read_examples
    from evals.roots import open_place
    from evals.segmentation_data import CLASSES_FILE, open_segmentation
    from evals.segmentation_data import read_examples as read_pairs

    if open_place(root).find(CLASSES_FILE) is not None:
        if counts is not None:
            raise InputError(f"--cifar10h: {root} has masks, not classes that people named")
        split = open_segmentation(root, train="test").test
        return _Set(root, lambda problems: (Example(e.where, e.image) for e in read_pairs(split)), None, None)
    from evals.cifar10h import read_counts

    folder = open_folder(root)
    people = None if counts is None else read_counts(counts, folder)
    return _Set(folder.root, lambda problems: read_examples(folder, problems), folder, people)


def encode(model: str, data: _Set, options: argparse.Namespace, bars: Bars) -> Encoded:
    """One pass of all images; InputError where any cannot be used, and for a model that cannot be loaded."""
    import torch

    from evals.datasets import BadSampleError, Problems, decode
    from evals.images import ahead
    from evals.representation import BlockFeatures
    from evals.texts import Rows

    encoder, module = _load(model, options)
    layers = BlockFeatures(module, encoder.name, options.layers) if options.layers else None
    problems, rows, digest = Problems(), Rows(), hashlib.sha256()

    def read() -> Iterator[Example]:
        for example in data.examples(problems):
            digest.update(hashlib.sha256(example.image).digest())
            yield example

    def load(example: Example) -> Tensor | BadSampleError:
        try:
            return encoder.preprocess(decode(example))
        except BadSampleError as error:
            return error

    done, bad, pixels = 0, 0, ahead(load, read(), options.workers, 2 * options.batch_size)
    while batch := list(islice(pixels, options.batch_size)):
        good = [one for one in batch if isinstance(one, torch.Tensor)]
        for error in (one for one in batch if isinstance(one, BadSampleError)):
            problems.add(error)
        if not problems:  # else no figure will come of it, and the rest is only decoded
            rows.append(encoder.encode_images(torch.stack(good)))
        done, bad = done + len(batch), bad + len(batch) - len(good)
        bars(encoder.name, done, None)
    problems.check(data.root, done + len(problems) - bad)
    blocks = [block.tensor().numpy() for block in layers.rows] if layers else []
    texts = None if data.people is None else _texts(encoder, data.folder)
    return Encoded(encoder.name, encoder.identity, rows.tensor().numpy(), blocks, texts, digest.hexdigest())


def _load(model: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """(encoder of images, its module): `evals.encoder`'s models, and timm's export directories."""
    import torch
    import torch.nn.functional as F
    from timm.data import create_transform, resolve_model_data_config

    from evals.encoder import CONFIG_FILE, check_device, load_encoder
    from evals.vision import TIMM_CONFIG_FILE, load_vision

    if (Path(model) / CONFIG_FILE).is_file() or not (Path(model) / TIMM_CONFIG_FILE).is_file():
        encoder: Any = load_encoder(model, device=options.device, precision=options.precision)
        return encoder, encoder._module
    vision, device = load_vision(model), check_device(options.device)

    def encode_images(images: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            return F.normalize(vision.embed(images.to(device)).float(), dim=-1).cpu()

    module = vision.module.to(device)
    calls = {"preprocess": create_transform(**resolve_model_data_config(vision.module), is_training=False)}
    return SimpleNamespace(name=vision.name, identity=vision.identity, encode_images=encode_images, **calls), module


def _texts(encoder: Any, folder: Any) -> np.ndarray | None:
    """(C, D) embeddings of the classes by their prompts; None for a model without a text tower."""
    from evals.ranks import Ranks
    from evals.texts import TextCache, encode_classes
    from evals.timm_encoder import TimmEncoder

    if isinstance(encoder, TimmEncoder) or not hasattr(encoder, "encode_texts"):
        return None
    sets, silent = {"": folder.class_prompts()}, lambda done, of: None
    found = encode_classes(encoder, sets, batch_size=64, cache=TextCache(None), ranks=Ranks(), progress=silent)
    return found[""].numpy()


def compare(found: Sequence[Encoded], labels: Sequence[str], data: _Set, options: argparse.Namespace) -> dict[str, Any]:
    """The report, without its time."""
    import numpy as np

    from evals.commit import commit
    from evals.encoder import check_device
    from evals.provenance import hardware, versions
    from evals.representation import cka_matrix, layer_cka, rsa_matrix

    features, images = [one.embeddings for one in found], len(found[0].embeddings)
    few = np.unique(np.linspace(0, images - 1, min(images, options.rsa_images)).round().astype(int))
    how = {"seed": 0, "draws": options.draws}
    others = zip(labels[1:], found[1:], strict=True) if options.layers else ()
    curves = {label: layer_cka(found[0].layers, one.layers, **how) for label, one in others}
    about = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "data": data.root, "images": images}
    made_by = {"precision": options.precision, "hardware": hardware(check_device(options.device)), "commit": commit()}
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
        **made_by,
        "versions": versions(),
    }


def _with_people(found: Sequence[Encoded], labels: Sequence[str], people: People, how: Mapping[str, int]) -> Any:
    """Every model's figures with its class means and, where it has a text tower, its text as classes."""
    from evals import cifar10h as human

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


def markdown(report: Mapping[str, Any], picture: str) -> str:
    """picture: name of the picture beside it."""
    from evals.markdown import join, table

    names, rsa = [f"{number} {one['label']}" for number, one in enumerate(report["models"], 1)], report["rsa"]

    def square(figures: Mapping[str, Any]) -> str:
        rows = zip(names, figures["values"], figures["low"], figures["high"], strict=True)
        cells = [[name, *(_figure(*cell) for cell in zip(*row, strict=True))] for name, *row in rows]
        return table(["", *map(str, range(1, len(names) + 1))], cells, left=1)

    sections = [
        f"# Representations of {', '.join(one['label'] for one in report['models'])}",
        f"{report['images']:,} images of {report['data']}; 95 % by {report['bootstrap']['draws']:,} draws of images.",
        f"![CKA and RSA between models]({picture})",
        f"## Linear CKA, debiased\n\n{square(report['cka'])}",
        f"## Linear CKA, biased\n\nRises with features per image.\n\n{square(report['cka_biased'])}",
        f"## RSA\n\nSpearman correlation of cosine distances, {rsa['images']:,} images.\n\n{square(rsa)}",
    ]
    if layers := report["layers"]:
        curves = [(name, zip(*curve.values(), strict=True)) for name, curve in layers["curves"].items()]
        rows = [[n, f"{i}", f"{place + 1}", _figure(*cka)] for n, c in curves for i, (place, *cka) in enumerate(c, 1)]
        head = ("model", "layer", f"layer of {layers['to']}", f"CKA ({layers['tokens']})")
        sections.append(f"## Layers\n\n{table(head, rows, left=1)}")
    if people := report["cifar10h"]:
        rows = [[r["model"], r["classes_by"], *(_figure(*r[name]) for name in _PEOPLE)] for r in people["models"]]
        rows += [["half of the people", "people", *(_figure(*people["half_of_people"][name]) for name in _PEOPLE)]]
        bounds = f"{people['chance']:.3f} for equal shares, {people['entropy_of_people']:.3f} at best"
        cells = table(("model", "classes", *_PEOPLE), rows, left=2)
        sections.append(f"## Agreement with people (CIFAR-10H)\n\n{cells}\nCross-entropy in nats: {bounds}.")
    origin = [(one["label"], f"{one['name']}, {one['identity']}") for one in report["models"]]
    return join([*sections, f"## Origin\n\n{table(('', ''), origin, left=2)}"])


def _figure(value: float | None, low: float | None, high: float | None) -> str:
    value_, low_, high_ = ("-" if number is None else f"{number:.3f}" for number in (value, low, high))
    return value_ if low_ == high_ else f"{value_} ({low_} to {high_})"


class _Sheet:
    """A white picture of twice its size."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self.image = Image.new("RGB", (width, height), _BACK)
        self.pen = ImageDraw.Draw(self.image)
        self._fonts = {size: ImageFont.load_default(size) for size in (_FONT, _SMALL)}

    def say(self, x: float, y: float, text: str, colour: str = _TEXT, anchor: str = "la", size: int = _FONT) -> None:
        font = self._fonts[size]
        while anchor == "la" and len(text) > 2 and x + font.getlength(text) > self.image.width - _GAP:
            text = f"…{text[2:]}"  # paths differ at their end
        self.pen.text((x, y), text, colour, font, anchor)


def draw(report: Mapping[str, Any]) -> Image.Image:
    """Heat maps of CKA and RSA with their numbers, and each model's layers against the first's."""
    labels, layers = [one["label"] for one in report["models"]], report["layers"]
    cell = max(100, min(200, 880 // len(labels)))
    panel = max(cell * len(labels) + _LINE, 760)
    top = 2 * _GAP + _LINE * (1 + len(labels))
    foot = top + 2 * _LINE + cell * len(labels) + _GAP
    sheet = _Sheet(2 * panel + 3 * _GAP, foot + (820 if layers else 0))
    sheet.say(_GAP, _GAP, f"{report['images']:,} images of {report['data']}", _SOFT)
    for number, label in enumerate(labels):
        y, colour = _GAP + _LINE * (number + 1), _COLOURS[(number - 1) % len(_COLOURS)]
        if layers and number:
            sheet.pen.line((_GAP + 56, y + 18, _GAP + 116, y + 18), colour, 6 if number <= len(_COLOURS) else 2)
        sheet.say(_GAP, y, str(number + 1), _SOFT)
        sheet.say(_GAP + (136 if layers else 56), y, label)
    _heat(sheet, _GAP, top, cell, "linear CKA, debiased", report["cka"])
    _heat(sheet, panel + 2 * _GAP, top, cell, f"RSA, {report['rsa']['images']:,} images", report["rsa"])
    if layers:
        sheet.say(_GAP, foot, f"linear CKA of each layer ({layers['tokens']}) to that of model 1; bars: 95 %")
        _plot(sheet, (_GAP + 80, foot + 90, sheet.image.width - _GAP, foot + 700), list(layers["curves"].values()))
    return sheet.image.reduce(2)


def _heat(sheet: _Sheet, left: int, top: int, cell: int, title: str, table: Mapping[str, Any]) -> None:
    sheet.say(left, top, title)
    for i, row in enumerate(zip(table["values"], table["low"], table["high"], strict=True)):
        at = (i + 0.5) * cell
        sheet.say(left + _LINE + at, top + 1.5 * _LINE, str(i + 1), _SOFT, "mm")
        sheet.say(left + _LINE / 2, top + 2 * _LINE + at, str(i + 1), _SOFT, "mm")
        for j, (value, low, high) in enumerate(zip(*row, strict=True)):
            x, y = left + _LINE + j * cell, top + 2 * _LINE + i * cell
            sheet.pen.rectangle((x, y, x + cell - 4, y + cell - 4), _shade(value or 0.0))
            colour, sure = _BACK if abs(value or 0.0) > 0.55 else _TEXT, i != j and cell >= 150 and low is not None
            sheet.say(x + cell / 2, y + cell / 2 - 16 * sure, "-" if value is None else f"{value:.2f}", colour, "mm")
            if sure:
                sheet.say(x + cell / 2, y + cell / 2 + 22, f"{low:.2f} to {high:.2f}", colour, "mm", _SMALL)


def _shade(value: float) -> tuple[int, ...]:
    """White at 0, blue at 1, orange at -1."""
    end = (0, 114, 178) if value >= 0 else (213, 94, 0)
    return tuple(round(255 + (channel - 255) * min(1.0, abs(value))) for channel in end)


def _plot(sheet: _Sheet, box: tuple[int, int, int, int], curves: Sequence[Mapping[str, Any]]) -> None:
    left, top, right, foot = box
    depth = 1 + max(place for curve in curves for place in curve["of_first"])
    lowest = math.floor(5 * min(0.0, *(v for c in curves for v in (*c["cka"], *c["low"]) if v is not None)))

    def at(layer: float, value: float) -> tuple[float, float]:
        share = (value - lowest / 5) / (1 - lowest / 5)
        return left + (right - left) * (layer + 0.5) / depth, foot - (foot - top) * share

    for tick in range(lowest, 6):
        y = at(0, tick / 5)[1]
        sheet.pen.line((left, y, right, y), _GRID if tick else _SOFT, 2)
        sheet.say(left - 16, y, f"{tick / 5:.1f}", _SOFT, "rm")
    for layer in range(0, depth, 1 + depth // 30):
        sheet.say(at(layer, 0)[0], foot + 34, str(layer + 1), _SOFT, "mm")
    for number, curve in enumerate(curves):
        colour, aside = _COLOURS[number % len(_COLOURS)], 0.05 * (number - (len(curves) - 1) / 2)
        scale = (depth - 1) / max(1, len(curve["cka"]) - 1)
        values = zip(curve["cka"], curve["low"], curve["high"], strict=True)
        known = [(layer * scale + aside, *v) for layer, v in enumerate(values) if None not in v]
        sheet.pen.line([at(x, value) for x, value, _, _ in known], colour, 5 if number < len(_COLOURS) else 2)
        for x, value, low, high in known:
            sheet.pen.line((at(x, low), at(x, high)), colour, 3)
            sheet.pen.circle(at(x, value), 6, colour)


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
    print("\n".join(str(options.out.with_suffix(suffix)) for suffix in (".json", ".md", ".png")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
