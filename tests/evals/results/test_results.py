"""What a report holds, and that it comes back from JSON as it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.evals.results.results import EvalReport, EvalResult

RESULT = EvalResult(
    task="cifar10",
    main_metric="acc1",
    metrics={"acc1": 0.6, "acc5": 0.9},
    chance={"acc1": 0.1, "acc5": 0.5},
    samples=2000,
    full_size=10000,
    seconds=1.5,
    intervals={"acc1": (0.55, 0.64), "acc5": (0.88, 0.92)},
    prompts="folder + cupl.json",
)
REPORT = EvalReport(
    model="m",
    identity="sha256:00",
    results=(RESULT,),
    step=48,
    samples_seen=3072,
    commit="abc",
    versions={"torch": "2"},
    hardware="cpu",
    precision="bf16",
    selection="paper29",
    missing=("cars",),
    failed={"gtsrb": "shard 3 is cut"},
    seconds=2.5,
)
SCHEMA_1 = {  # as version 0.1 of the code wrote it
    "model": "m",
    "identity": "sha256:00",
    "results": [
        {
            "task": "cifar10",
            "main_metric": "acc1",
            "metrics": {"acc1": 0.6},
            "chance": {"acc1": 0.1},
            "samples": 2000,
            "full_size": None,
            "seconds": 1.5,
        }
    ],
    "step": 48,
    "samples_seen": None,
    "commit": None,
    "versions": {},
    "hardware": "cpu",
    "schema_version": 1,
}


def test_json_round_trip() -> None:
    """A report that was written could not be read again as it was, intervals and what is missing among it."""
    again = EvalReport.from_json(REPORT.to_json())
    assert again == REPORT
    assert again.results[0].interval == (0.55, 0.64)
    assert json.loads(REPORT.to_json())["schema_version"] == 2


def test_schema_1_is_read_with_defaults() -> None:
    """Reports of runs that are finished would be lost, or written on as an old version with new fields."""
    report = EvalReport.from_dict(SCHEMA_1)
    [result] = report.results
    assert (result.intervals, result.interval, result.prompts) == ({}, None, "")
    assert (report.precision, report.selection, report.missing, report.failed, report.seconds) == (
        "fp32",
        "",
        (),
        {},
        0,
    )
    assert report.schema_version == 2
    assert EvalReport.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(extra=1), "report: unknown field 'extra'"),
        (lambda d: d["results"][0].update(extra=1), "result: unknown field 'extra'"),
        (lambda d: d.pop("identity"), "report: lacks identity"),
        (lambda d: d["results"][0].pop("chance"), "result: lacks chance"),
        (lambda d: d.update(schema_version=3), "schema_version 3; this version reads 1 and 2"),
        (lambda d: d.update(results={}), "results must be a list"),
        (lambda d: d["results"][0].update(metrics=[]), "metrics must be a JSON object"),
        (lambda d: d["results"][0]["metrics"].update(acc1=10.0), r"number in \[0, 1\]"),
        (lambda d: d["results"][0]["metrics"].update(acc1=float("nan")), r"number in \[0, 1\]"),
        (lambda d: d["results"][0]["metrics"].update(acc2=0.5), "name the same figures"),
        (lambda d: d["results"][0]["intervals"].pop("acc5"), "intervals must name the same figures"),
        (lambda d: d["results"][0]["intervals"].update(acc1=[0.6, 0.5]), "the lower first"),
        (lambda d: d["results"][0]["intervals"].update(acc1=[0.5, 1.5]), "the lower first"),
        (lambda d: d["results"][0]["intervals"].update(acc1=[0.5]), "the lower first"),
        (lambda d: d["results"][0]["intervals"].update(acc1="ab"), "the lower first"),
        (lambda d: d["results"][0].update(samples="2000"), "samples must be a whole number"),
        (lambda d: d["results"][0].update(task=3), "task must be a text"),
        (lambda d: d.update(step=True), "step must be a number or null"),
        (lambda d: d.update(seconds=-1), "seconds must be a number from 0 on"),
        (lambda d: d.update(missing="cars"), "missing must be a list of texts"),
        (lambda d: d.update(failed=["cars"]), "failed must be a JSON object of texts"),
    ],
)
def test_a_bad_report_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    """A report of another version, or edited by hand, would be taken for ours."""
    data = json.loads(REPORT.to_json())
    change(data)
    with pytest.raises(InputError, match=message):
        EvalReport.from_json(json.dumps(data))


def test_text_that_is_no_report_is_refused() -> None:
    """Pages of traceback for a file that was cut."""
    for text in ("{", "[]"):
        with pytest.raises(InputError, match="report: "):
            EvalReport.from_json(text)


def test_times_chance_where_guessing_scores_nothing() -> None:
    """A division by zero would take the whole report down with one task."""
    assert RESULT.times_chance == pytest.approx(6)
    assert replace(RESULT, chance={"acc1": 0.0, "acc5": 0.5}).times_chance is None
