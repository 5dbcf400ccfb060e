"""A probe as Markdown: every figure with its interval, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pineco.evals.report.markdown import join, table

_PEOPLE = ("cross_entropy", "class_similarity_rsa", "entropy_correlation")


def markdown(report: Mapping[str, Any], picture: str) -> str:
    """picture: name of the picture beside it."""
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
